from helios.admin.views import ChangeView as ChangeView
from helios.admin.views import CheckView as CheckView
from helios.admin.views import KeyView as KeyView
from helios.admin.views import MigrationView as MigrationView
from helios.admin.views import NodeView as NodeView
from helios.admin.views import PreviewView as PreviewView
from helios.admin.views import RuleView as RuleView
from helios.admin.views import SettingView as SettingView
from helios.admin.views import StatsView as StatsView
from helios.client.asynchronous import AsyncAdminClient as AsyncAdminClient
from helios.client.blocking import AdminClient as AdminClient
from helios.client.progress import Progress as Progress
from helios.errors import ChangeFailed as ChangeFailed
from helios.errors import HeliosError as HeliosError
from helios.errors import InvalidInput as InvalidInput
from helios.errors import NotFound as NotFound
from helios.errors import OutcomeUnknown as OutcomeUnknown
from helios.errors import Refused as Refused
from helios.errors import StartError as StartError
from helios.errors import Unavailable as Unavailable
from helios.errors import WaitTimeout as WaitTimeout
from helios.local import LocalCluster as LocalCluster
from helios.values import Move as Move
from helios.values import Placement as Placement
from helios.values import Ring as Ring
from helios.values import Rule as Rule

__all__: list[str]
