"""Logs as meters write them, and what is no log."""

import datetime

import pytest

from dynnas_jax.costs import power_log

JTOP = """time,uptime,jetson_clocks,nvp model,CPU1,GPU,RAM,Temp CPU,Power CPU,Power GPU,Power TOT
2024-01-31 12:00:00.250000,"1 day, 2:03:04.250000",ON,MAXN,12,40,0.4,45.5,900,400,3315
2024-01-31 12:00:01.250000,"1 day, 2:03:05.250000",ON,MAXN,12,40,0.4,45.5,900,400,3415
"""
NOON = datetime.datetime(2024, 1, 31, 12, tzinfo=datetime.UTC).timestamp()


@pytest.fixture
def read(tmp_path):
    def of(text, encoding="utf-8", **options):
        path = tmp_path / "log.csv"
        path.write_bytes(text.encode(encoding))
        return power_log.read_log(path, **options)

    return of


def test_a_log_of_jtop(read):
    log = read(JTOP)
    assert log.time_s == (NOON + 0.25, NOON + 1.25)
    assert log.power_w == pytest.approx((3.315, 3.415))  # jtop writes mW
    assert log.source == "log.csv (Power TOT)"
    assert read(JTOP, column="Power GPU").power_w == pytest.approx((0.4, 0.4))
    assert read(JTOP, utc_offset_s=3600).time_s[0] == NOON + 0.25 - 3600


@pytest.mark.parametrize(
    ("header", "row", "watts"),
    [
        ("time_s,power_w", "0,2.5", 2.5),
        ("Time (s),Power [mW]", "0,2500", 2.5),
        ("timestamp_s;Power (mW)", "0;2500,5", 2.5005),
        ("t/s\tP/W", "0\t2.5", 2.5),
        ("time_ms,watts", "0,2.5", 2.5),
        ("Time(s),Voltage(V),Current(A)", "0,5.1,0.5", 2.55),
        ("Time(s),Voltage(mV),Current(mA),D+(V),D-(V),Energy(mWh)", "0,5100,500,0.6,0.6,1", 2.55),
        ("elapsed s;U/V;I/mA", "0;5,1;500", 2.55),
        ("time_s,vbus_v,ibus_ma", "0,5,500", 2.5),
        ("time_s,V,A,W", "0,5,0.5,2.6", 2.6),  # what the meter says of the power counts
        ("time_s,VDD_IN mW,VDD_CPU_GPU_CV mW,VDD_SOC mW", "0,4000,1500,900", 4.0),
        ("time_s,POM_5V_IN [mW],POM_5V_GPU [mW]", "0,4000,1500", 4.0),
        ("time_s,power_µw", "0,2500000", 2.5),
    ],
)
def test_names_and_units_as_meters_write_them(read, header, row, watts):
    later = "1" + row[1:]
    assert read(f"Some meter 1.0\nserial 12\n{header}\n{row}\n\n{later}\n", start_s=5.0).power_w == pytest.approx(
        (watts, watts)
    )


@pytest.mark.parametrize(
    ("header", "cell", "later", "seconds"),
    [
        ("timestamp", "1706702400.5", "1706702401", NOON + 0.5),
        ("time", "1706702400500", "1706702401000", NOON + 0.5),
        ("time_ms", "1706702400500", "1706702401000", NOON + 0.5),
        ("timestamp", "2024-01-31T12:00:00.5Z", "2024-01-31T12:00:01Z", NOON + 0.5),
        ("timestamp", "2024/01/31 13:00:00+01:00", "2024/01/31 14:00:01+02:00", NOON),
        ("datetime", "2024-01-31 12:00:00.123456789", "2024-01-31 12:00:01", NOON + 0.123456),
        ("time_s", "0", "1", 77.0),
        ("uptime", "0:00:01", "0:00:02", 77.0),
        ("elapsed", "1 day, 0:00:01.5", "1 day, 0:00:02", 77.0),
    ],
)
def test_times(read, header, cell, later, seconds):
    log = read(f'\ufeff{header},power_w\n"{cell}",1\n"{later}",2\n', start_s=77.0)
    assert log.time_s[0] == pytest.approx(seconds, abs=1e-6)
    assert 0 < log.time_s[1] - log.time_s[0] <= 1 + 1e-6


def test_several_rows_of_one_second(read):
    assert read("time_s,power_w\n0,1\n0,3\n1,2\n", start_s=0.0).power_w == (1, 3, 2)


def test_times_since_the_start(read):
    assert read("time_ms,power_w\n500,1\n1500,2\n3000,3\n", start_s=NOON).time_s == (NOON, NOON + 1, NOON + 2.5)
    with pytest.raises(ValueError, match=r"counts time from its start: say when that was \(--energy_log_start\)"):
        read("time_ms,power_w\n500,1\n1500,2\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time_s,power\n0,1\n1,1\n", "column 'power' names no unit: rename it"),
        ("time_s,voltage_v,current\n0,1,1\n1,1,1\n", "column 'current' names no unit"),
        ("time_s,voltage_v\n0,1\n1,1\n", "one column of power is needed, .* there are none"),
        ("time_s,cpu_w,gpu_w\n0,1,1\n1,1,1\n", "there are cpu_w, gpu_w: name the power with --energy_column"),
        ("time,power_w\n0,1\n1,1\n", "line 2: '0' of column 'time' has no unit"),
        ("time_s,power_w\n0,1\n1,x\n", "line 3 has 'x' where a number is expected"),
        ("time_s,power_w\n0,1\n1,\n", "line 3 has '' where a number is expected"),
        ("time_s,power_w\n0,1\n1,nan\n", "line 3 has 'nan' where a number"),
        ("time_s,power_w\n0,1\n1\n", "line 3 has 1 columns, fewer than the header"),
        ("time_s,power_w\n1,1\n0,1\n", "line 3 is earlier than the row before it: .* in the order of time"),
        ("time_s,power_w\n0,1\n2,1\n\n1,2\n3,1\n", "line 5 is earlier than the row before it"),
        ("time_s,power_w\n0,1\n1,-0.5\n", "line 3 has a power of -0.5 W: give none below zero"),
        ("time_s,voltage_v,current_a\n0,5,1\n1,5,-1\n", "line 3 has a power of -5 W"),
        ("time_s,power_w\n1,1\n", "has 1 rows, which must be two or more"),
        ("time,power_w\nyesterday,1\nnow,1\n", "line 2 has 'yesterday' where a date"),
        ("uptime,power_w\n1.5.1,1\nnow,1\n", "'1.5.1'"),
        ("timestamp,power_w\n1706702400,1\n2024-01-31,1\n3,1\n", "line 4"),
        ("time_s,power_w\n1706702400,1\n3,1\n", "mixes times since its start with times since 1970"),
        ("", "no header with a time and a power"),
        ("a,b\n1,2\n", "no header with a time and a power"),
    ],
)
def test_what_is_no_log_is_one_plain_line(read, text, said):
    with pytest.raises(ValueError, match=rf"^[^\n]*log\.csv[^\n]*{said}[^\n]*$"):
        read(text, start_s=0.0)


def test_files_that_are_no_text(read, tmp_path):
    with pytest.raises(ValueError, match="is no CSV file: it is not text"):
        read("tëxt", encoding="latin-1")
    with pytest.raises(ValueError, match="cannot read .*none.csv: No such file"):
        power_log.read_log(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="has no column 'Power X' of power"):
        read(JTOP, column="Power X")
