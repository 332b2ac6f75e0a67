"""docs/faults.md names every fault and, for each, exactly the files that hold its tests."""

from pathlib import Path

from edgerl.fault_catalogue import NOT_YET, number_of, read_catalogue, read_tests

ROOT = Path(__file__).parents[2]


def test_the_catalogue_has_all_42_faults_in_order_and_says_what_each_is():
    faults = read_catalogue(ROOT)
    assert [number_of(fault.id) for fault in faults] == [*range(1, 43)]
    assert all(fault.what and fault.expected for fault in faults)


def test_the_catalogue_names_the_files_of_each_faults_tests_and_no_others():
    tests = read_tests(ROOT)
    named = {fault.id: fault.tests for fault in read_catalogue(ROOT)}
    there = {
        fault_id: ", ".join(f"`{file}`" for file in sorted({test.partition("::")[0] for test in tests[fault_id]}))
        if fault_id in tests
        else NOT_YET
        for fault_id in named
    }
    assert named == there


def test_every_fault_with_a_test_says_how_it_is_made():
    assert [fault.id for fault in read_catalogue(ROOT) if fault.tests != NOT_YET and not fault.means] == []
