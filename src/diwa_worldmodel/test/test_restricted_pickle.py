"""CALVIN's annotation file is a pickle: harmless ones are read, hostile ones are refused without running anything."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.restricted_pickle import load_annotation_file, restricted_loads

ran: list[str] = []


def run_me(text="ran"):
    ran.append(text)


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *words):
        self.what = (function, words)

    def __reduce__(self):
        return self.what


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()
    yield
    assert ran == []


def loads(content, path, protocol=4):
    return restricted_loads(content if isinstance(content, bytes) else pickle.dumps(content, protocol), path)


@pytest.mark.parametrize("protocol", range(5))
def test_dicts_lists_texts_numbers_and_arrays_are_read(tmp_path, protocol):
    content = {
        "info": {"indx": [(1, 64), (np.int64(95), 149)], "episodes": []},
        "language": {"task": np.array(["open_drawer", "turn_on_led"]), "emb": np.ones((2, 1, 3), np.float32)},
        "names": np.array(["a", "bc"], dtype=object),
        "raw": b"\x00\xff",
        "more": [None, True, 2.5],
    }
    found = loads(content, tmp_path, protocol)
    assert found["info"] == content["info"]
    assert list(found["language"]["task"]) == ["open_drawer", "turn_on_led"]
    np.testing.assert_array_equal(found["language"]["emb"], content["language"]["emb"])
    assert (list(found["names"]), found["raw"], found["more"]) == (["a", "bc"], b"\x00\xff", [None, True, 2.5])


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_a_file_written_by_numpy_is_read(tmp_path, version):
    path = tmp_path / "a.npy"
    with open(path, "wb") as stream:
        np.lib.format.write_array(stream, np.array({"x": [1, 2]}, dtype=object), version=version)
    assert load_annotation_file(path) == {"x": [1, 2]}


@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (Calls(os.system, "echo ran"), r"(posix|nt)\.system"),
        (Calls(eval, "run_me()"), r"builtins\.eval"),
        (Calls(exec, "run_me()"), r"builtins\.exec"),
        (Calls(getattr, "", "join"), r"builtins\.getattr"),
        (Calls(__import__, "os"), r"builtins\.__import__"),
        (Calls(run_me), r"\.run_me"),
        (Calls(np.load, "x"), r"numpy.*\.load"),
        (Calls(np.zeros, 10**12), r"\.zeros"),
        (Calls(bytearray, 10**12), r"builtins\.bytearray"),
        (Calls(open, "x", "w"), r"io\.open"),
    ],
)
def test_calls_are_refused_by_name(tmp_path, hostile, name):
    with pytest.raises(UserError, match=f"asks for .*{name}, which was refused"):
        loads({"info": hostile}, tmp_path)


def test_a_name_with_dots_is_no_way_around(tmp_path):
    with pytest.raises(UserError, match=r"asks for numpy.ndarray.__class__, which was refused"):
        loads(b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", tmp_path)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
"""Begins an array, as numpy does."""


@pytest.mark.parametrize(
    "program",
    [
        # An array of 10^12 items, none of which are there.
        ARRAY + b"(I1\n(L1000000000000L\ntcnumpy\ndtype\n(S'f8'\nI0\nI1\ntRI00\nC\x00tb.",
        # A dtype with fields, which numpy would trust.
        b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\ntNI8\nI1\nI0\ntb.",
        b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\ntNI8\nI1\nI0\ntb.",
        # Objects given as raw bytes: pointers of the attacker's choice.
        ARRAY + b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\nS'AAAAAAAA'\ntb.",
        # State and attributes set on a name itself.
        b"cnumpy\ndtype\n}S'x'\nI1\nsb.",
        b"cnumpy\ndtype\nN}S'_make'\nI1\ns\x86b.",
        # Made without its constructor, called directly, text instead of an array's shape.
        b"cnumpy\ndtype\n)\x81.",
        b"cnumpy\nndarray\n(I1000000000\ntR.",
        ARRAY + b"(I1\nS'xx'\nN\x88S''\ntb.",
        # Registered extension, reference outside, memo that is not there, bytes that are not there.
        b"\x80\x02\x82\x01.",
        b"Pelse\n.",
        b"j\xff\xff\xff\xff.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.",
        b"",
        b"\x80\x09.",
        b".",
    ],
)
def test_programs_that_attack_the_reader_are_refused(tmp_path, program):
    with pytest.raises(UserError):
        restricted_loads(program, tmp_path)


def test_a_memo_with_a_huge_number_takes_no_memory(tmp_path):
    assert restricted_loads(b"]r\xff\xff\xff\xff.", tmp_path) == []


def test_deep_and_endless_nesting_is_refused(tmp_path):
    with pytest.raises(UserError, match="nests its values deeper|RecursionError"):
        restricted_loads(b"]" * 100_000 + b"a" * 99_999 + b".", tmp_path)
    with pytest.raises(UserError, match="nests its values deeper"):
        restricted_loads(b"]q\x00h\x00a.", tmp_path)


def test_a_list_that_doubles_itself_over_and_over_is_refused(tmp_path):
    program = b"]q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(100))
    with pytest.raises(UserError, match="nests its values deeper"):
        restricted_loads(program + b".", tmp_path)


def test_a_few_bytes_cannot_stand_for_millions_of_values(tmp_path, monkeypatch):
    monkeypatch.setattr("diwa_worldmodel.dataset.restricted_pickle.MAX_VALUES", 10_000)
    levels = [b"](" + (b"h" + bytes([i])) * 100 + b"eq" + bytes([i + 1]) for i in range(8)]
    with pytest.raises(UserError, match="has more than"):
        restricted_loads(b"]q\x00" + b"".join(levels) + b".", tmp_path)


@given(st.binary(max_size=80))
def test_random_bytes_raise_nothing_but_a_user_error(tmp_path_factory, program):
    try:
        restricted_loads(program, tmp_path_factory.getbasetemp())
    except UserError:
        pass


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x93NUMPY\x01\x00v\x00{'descr': __import__('os')}"])
def test_files_that_are_no_npy_files_are_refused(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a .npy file"):
        load_annotation_file(path)


def test_a_file_with_a_plain_array_is_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.arange(3))
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match=r"holds int64 \(3,\); expected one pickled dict"):
        load_annotation_file(tmp_path / "a.npy")
