"""What people say of images, in any order: the rules as a table, and the records that follow them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ad_assets.production.feedback_ledger import (
    DECIDES,
    Decision,
    Feedback,
    FeedbackError,
    Ledger,
    Verdict,
    add_entries,
    after,
    ledger_path,
    now,
    read_ledger,
)
from ad_assets.production.lasting_records import DamagedRecordError
from ad_assets.production.review_decisions import (
    NONE_ADMITTED,
    count_reviews,
    decide,
    decided_images,
    decision_stamp,
    read_decisions,
    reviewed_categories,
    update_admissions,
)
from ad_assets.store.store import ArtifactStore

FIRST, SECOND = ("a" * 64, "b" * 64)
PLACE = ("parts", "bolt")

# As docs/operators.md has it: the verdict that stands, what a person does -> the verdict that stands then, and the
# decision of `quarantine` ("=": as before).
RULES: list[tuple[Verdict | None, str, Verdict | None, str]] = [
    (None, "admit", None, "admit"),
    (None, "reject", None, "reject"),
    (None, "false_alarm", "false_alarm", "="),
    (None, "missed", "missed", "="),
    (None, "confirmed", "confirmed", "="),
    ("false_alarm", "admit", "false_alarm", "admit"),
    ("false_alarm", "reject", None, "reject"),
    ("false_alarm", "false_alarm", "false_alarm", "="),
    ("false_alarm", "missed", "missed", "="),
    ("false_alarm", "confirmed", "confirmed", "="),
    ("false_alarm", "undo", None, "="),
    ("missed", "admit", None, "admit"),
    ("missed", "reject", "missed", "reject"),
    ("missed", "false_alarm", "false_alarm", "="),
    ("missed", "missed", "missed", "="),
    ("missed", "confirmed", "confirmed", "="),
    ("missed", "undo", None, "="),
    ("confirmed", "admit", None, "admit"),
    ("confirmed", "reject", "confirmed", "reject"),
    ("confirmed", "false_alarm", "false_alarm", "="),
    ("confirmed", "missed", "missed", "="),
    ("confirmed", "confirmed", "confirmed", "="),
    ("confirmed", "undo", None, "="),
]
DECISIONS: tuple[Decision | None, ...] = (None, "admit", "reject")


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize(("verdict", "action", "stands", "then"), RULES)
def test_rules_of_what_stands(
    tmp_path: Path, decision: Decision | None, verdict: Verdict | None, action: str, stands: Verdict | None, then: str
) -> None:
    expected = (decision if then == "=" else then, stands)
    assert after(decision, verdict, action) == expected  # type: ignore[arg-type]
    # The records come to the same.
    store = ArtifactStore(root=str(tmp_path))
    if decision:
        decide(store, *PLACE, [FIRST], decision)
    if verdict:
        say(store, FIRST, verdict)
    act(store, FIRST, action)
    standing = read_ledger(store, *PLACE).standing().get(FIRST)
    assert (standing.verdict if standing else None) == stands
    in_force = DECIDES[stands] if stands else expected[0]
    assert read_decisions(store, *PLACE).get(FIRST) == in_force


@pytest.mark.parametrize("decision", DECISIONS)
def test_nothing_is_undone_where_nothing_stands(decision: Decision | None) -> None:
    with pytest.raises(FeedbackError, match="none to undo"):
        after(decision, None, "undo")


def say(store: ArtifactStore, image: str, said: str) -> None:
    add_entries(store, *PLACE, lambda _: (Feedback(image, "undone" if said == "undo" else said, now()),))  # type: ignore[arg-type]


def act(store: ArtifactStore, image: str, action: str) -> None:
    if action in ("admit", "reject"):
        decide(store, *PLACE, [image], action)  # type: ignore[arg-type]
    else:
        say(store, image, action)


ACTIONS = st.sampled_from(["admit", "reject", "false_alarm", "missed", "confirmed", "undo"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from([FIRST, SECOND]), ACTIONS), max_size=12))
def test_any_order_of_decisions_and_feedback_ends_where_the_rules_say(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    store = ArtifactStore(root=str(tmp_path_factory.mktemp("store")))
    update_admissions(store, *PLACE, lambda _: NONE_ADMITTED)
    model: dict[str, tuple[Decision | None, Verdict | None]] = {FIRST: (None, None), SECOND: (None, None)}
    stamps = [decision_stamp(store, *PLACE)]
    for image, action in steps:
        try:
            changed = after(*model[image], action)  # type: ignore[arg-type]
        except FeedbackError:
            continue
        act(store, image, action)
        count_reviews(store, *PLACE)
        stamps.append(decision_stamp(store, *PLACE))
        assert (stamps[-1] != stamps[-2]) >= (changed != model[image])  # a change is seen by the sensor
        model[image] = changed
    expected = {image: DECIDES[verdict] if verdict else decision for image, (decision, verdict) in model.items()}
    assert read_decisions(store, *PLACE) == {image: each for image, each in expected.items() if each}


def test_of_feedback_at_once_none_is_lost(tmp_path: Path) -> None:
    store = ArtifactStore(root=str(tmp_path))
    images = [f"{number:064x}" for number in range(40)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda image: say(store, image, "false_alarm"), images))
    assert read_ledger(store, *PLACE).standing().keys() == set(images)
    assert decided_images(store) == set(images)
    assert reviewed_categories(store, "parts") == {"bolt"}


def test_a_ledger_that_is_lost_or_damaged_is_refused_by_name(tmp_path: Path) -> None:
    store = ArtifactStore(root=str(tmp_path))
    update_admissions(store, *PLACE, lambda _: NONE_ADMITTED)
    say(store, FIRST, "missed")
    count_reviews(store, *PLACE)
    path = ledger_path(*PLACE)
    whole = store.read_bytes(path)
    store.write_bytes(path, whole.replace(b"missed", b"mist"))
    with pytest.raises(DamagedRecordError, match=r"feedback/parts/bolt\.json cannot be read \(entries.0.said"):
        read_decisions(store, *PLACE)
    store.delete([path])
    with pytest.raises(DamagedRecordError, match=r"holds 0 of at least 1 decisions.*feedback/parts/bolt\.json beside"):
        read_decisions(store, *PLACE)
    assert Ledger().standing() == {}
