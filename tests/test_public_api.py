"""The public surface: what ``mnemolite`` offers is listed, sorted, and there."""

import importlib

import mnemolite


def test_all_is_sorted_and_complete() -> None:
    assert mnemolite.__all__ == sorted(set(mnemolite.__all__))
    for name in mnemolite.__all__:
        assert getattr(mnemolite, name) is not None


def test_a_star_import_brings_exactly_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from mnemolite import *", namespace)  # the only way to try a star import
    assert namespace.keys() - {"__builtins__"} == set(mnemolite.__all__)


def test_memory_is_the_same_class_under_both_names() -> None:
    assert mnemolite.Memory is importlib.import_module("mnemolite.memory").Memory


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(mnemolite, "NoSuchName")
