from helios.resp.info import info_fields


def test_fields_are_read_by_name_and_headings_are_passed_over() -> None:
    text = b"# Server\r\nrun_id:abc\r\n\r\n# Replication\r\nslave0:ip=::1,port=7000\r\nconfig_file:\r\nbroken\xff:1\r\n"
    assert info_fields(text) == {"run_id": "abc", "slave0": "ip=::1,port=7000", "config_file": "", "broken\ufffd": "1"}
    assert info_fields(b"") == {}
