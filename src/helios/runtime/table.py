"""What `helios up` shows when the cluster serves."""

from __future__ import annotations

from helios.model.settings import Settings
from helios.node.files import DataFolder
from helios.node.member_state import described
from helios.runtime.preflight import Plan


def addresses(data: DataFolder, plan: Plan, settings: Settings) -> str:
    """The nodes with their addresses and data servers, the REST interface and the folder, as a table."""
    rows = [("NODE", "CLIENTS", "DATA SERVER")]
    for node in plan.nodes:
        server = described(data.node(node.id).founder)
        plain = " (has no TLS)" if settings.atlas.tls_cert_file and not server.endswith(", TLS") else ""
        beside = " (started elsewhere)" if node.foreign else ""
        rows.append((node.id, str(node.listen), server + plain + beside))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{name:<{widths[0]}}  {listen:<{widths[1]}}  {server}" for name, listen, server in rows]
    lines += [
        "",
        f"REST  {'https' if settings.security.tls_cert_file else 'http'}://{settings.gateway.listen}",
        f"data  {data.root}",
    ]
    return "\n".join(lines)
