import os
from pathlib import Path

import pytest

from ad_assets.store import s3_objects
from ad_assets.store.checksums import CorruptArtifactError
from ad_assets.store.compare_and_swap import ABSENT
from ad_assets.store.s3_objects import list_objects, read_object, read_whole
from ad_assets.store.store import ArtifactStore
from tests.support.latency_proxy import latency_proxy


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "PART", 1000)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 4321])
def test_objects_of_any_size_are_read_whole(s3_store: ArtifactStore, small_parts: None, size: int) -> None:
    data = os.urandom(size)
    s3_store.write_bytes("some/file", data)
    assert s3_store.fetch("some/file") == data
    fs, base = s3_store.opened
    assert read_object(fs, f"{base}/some/file") == (data, fs.info(f"{base}/some/file")["ETag"])


def test_an_object_that_is_replaced_while_it_is_read_is_one_of_the_two(
    s3_store: ArtifactStore, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = b"a" * 4500, b"b" * 3500
    s3_store.write_bytes("some/file", old)
    fs, base = s3_store.opened
    call, answers = fs._call_s3, []

    async def replaced_after_the_first_part(method: str, *args: object, **options: object) -> object:
        answer = await call(method, *args, **options)
        answers.append(method)
        if len(answers) == 1:
            await call("put_object", Bucket=options["Bucket"], Key=options["Key"], Body=new)
        return answer

    monkeypatch.setattr(fs, "_call_s3", replaced_after_the_first_part)
    assert read_whole(fs, f"{base}/some/file")[0] == new
    assert len(answers) > 1


def test_listings_have_all_pages_and_what_s3fs_lists(s3_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"heads/a/{number:02}.json" for number in range(7)]
    for name in (*names, *(f"heads-of-others/{number}" for number in range(4)), "other/x"):
        s3_store.write_bytes(name, name.encode())
    fs, base = s3_store.opened
    call = fs._call_s3

    async def in_pages_of_three(method: str, *args: object, **options: object) -> object:
        paged = {"MaxKeys": 3} if method == "list_objects_v2" else {}
        return await call(method, *args, **options, **paged)

    monkeypatch.setattr(fs, "_call_s3", in_pages_of_three)
    listed = list_objects(fs, f"{base}/heads")
    assert [*listed] == [f"{base}/{name}" for name in names]
    theirs = fs.find(f"{base}/heads", detail=True)
    assert {path: (info["size"], info["ETag"]) for path, info in listed.items()} == {
        path: (info["size"], info["ETag"]) for path, info in theirs.items()
    }
    assert list_objects(fs, f"{base}/none") == {}
    assert [file.path for file in s3_store.files()] == sorted(
        [*names, *(f"heads-of-others/{number}" for number in range(4)), "other/x"]
    )
    assert [*list_objects(fs, f"{base}/other/x")] == [f"{base}/other/x"]


def test_an_artifact_is_a_look_its_large_files_and_a_record(s3_endpoint: str, s3_store: ArtifactStore) -> None:
    with latency_proxy(s3_endpoint, 0) as proxy:
        store = ArtifactStore(root=s3_store.root, storage_options={"endpoint_url": proxy.endpoint})
        artifact = store.artifact("kind", "address")
        assert artifact.damaged() is None
        store.write_json(artifact.at("a.json"), 1)
        store.write_bytes(artifact.at("b"), b"2")
        assert artifact.present_files() == {artifact.at("a.json"): 1, artifact.at("b"): 1}
        record = artifact.commit({"metadata": {"x": 3}})
        assert (store.read_json(artifact.at("a.json")), store.read_bytes(artifact.at("b"))) == (1, b"2")
        assert [request.verb for request in proxy.requests()] == ["LIST", "PUT", "PUT"]
        proxy.forget()
        # Another process reads the small file with the record.
        other = ArtifactStore(root=s3_store.root, storage_options={"endpoint_url": proxy.endpoint})
        artifact = other.artifact("kind", "address")
        assert (other.read_json(artifact.at("a.json")), artifact.facts()) == (1, {"x": 3})
        assert (other.exists(artifact.at("a.json")), other.exists(artifact.at("c.json"))) == (True, False)
        assert other.files("none") == []
        other.update("attempt", lambda _: b"1", seen=ABSENT)
        assert [request.verb for request in proxy.requests()] == ["RANGE", "LIST", "PUT"]
    artifact = s3_store.artifact("kind", "address")
    assert artifact.is_sound()
    files = {file.path: file.size for file in s3_store.files(artifact.path)}
    assert artifact.sizes(record) == files
    assert files.keys() == {artifact.at("artifact.json"), artifact.at("b")}


def test_a_copy_of_a_bucket_on_a_disk_is_read_as_the_bucket(s3_store: ArtifactStore, tmp_path: Path) -> None:
    artifact = s3_store.artifact("kind", "address")
    large = "x".join(map(str, range(400_000)))  # does not fit the record
    s3_store.write_text(artifact.at("small.txt"), "small")
    s3_store.write_text(artifact.at("large.txt"), large)
    artifact.commit({"metadata": {}})
    for file in s3_store.files():
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_bytes(s3_store.fetch(file.path))
    copy = ArtifactStore(root=str(tmp_path)).artifact("kind", "address")
    assert copy.is_sound()
    assert [copy.store.read_text(copy.at(name)) for name in ("small.txt", "large.txt")] == ["small", large]
    assert (copy.store.exists(copy.at("small.txt")), copy.store.exists(copy.at("other.txt"))) == (True, False)


def test_a_file_of_another_process_is_read_at_the_commit(s3_store: ArtifactStore) -> None:
    other, third = (ArtifactStore(root=s3_store.root, storage_options=s3_store.storage_options) for _ in range(2))
    artifact = s3_store.artifact("kind", "address")
    s3_store.write_bytes(artifact.at("a"), b"mine")
    other.write_bytes(artifact.at("a"), b"theirs")
    artifact.commit({"metadata": {}})
    assert s3_store.read_bytes(artifact.at("a")) == b"theirs"
    # And what is replaced later is refused, but by those who have read what the record says.
    other.write_bytes(artifact.at("a"), b"later")
    assert s3_store.read_bytes(artifact.at("a")) == b"theirs"
    assert artifact.damaged(deep=True) == [artifact.at("a")]
    with pytest.raises(CorruptArtifactError):
        third.read_bytes(artifact.at("a"))


def test_of_two_processes_that_build_the_same_the_second_lists_what_there_is(s3_store: ArtifactStore) -> None:
    other = ArtifactStore(root=s3_store.root, storage_options=s3_store.storage_options)
    artifact, same = s3_store.artifact("kind", "address"), other.artifact("kind", "address")
    assert artifact.damaged() is same.damaged() is None
    s3_store.write_bytes(artifact.at("a"), b"mine")
    other.write_bytes(artifact.at("a"), b"theirs")
    other.write_json(artifact.at("b.json"), 2)
    for each in (artifact, same):
        each.commit({"metadata": {}})
    third = ArtifactStore(root=s3_store.root, storage_options=s3_store.storage_options)
    assert third.artifact("kind", "address").is_sound()
    assert (third.read_bytes(artifact.at("a")), third.read_json(artifact.at("b.json"))) == (b"theirs", 2)


def test_what_was_made_again_elsewhere_is_read_again(s3_store: ArtifactStore) -> None:
    other = ArtifactStore(root=s3_store.root, storage_options=s3_store.storage_options)
    artifact, same = s3_store.artifact("kind", "address"), other.artifact("kind", "address")
    s3_store.write_json(artifact.at("a.json"), 1)
    artifact.commit({"metadata": {}})
    assert same.store.read_json(same.at("a.json")) == 1
    s3_store.delete([artifact.at("artifact.json")])
    s3_store.write_bytes(artifact.at("a.json"), b"2")  # now an object
    artifact.commit({"metadata": {}})
    other.forget_record(same.at("artifact.json"))
    assert other.read_json(same.at("a.json")) == 2
    s3_store.delete([artifact.at("artifact.json"), artifact.at("a.json")])
    s3_store.write_json(artifact.at("a.json"), 3)  # in the record again
    artifact.commit({"metadata": {}})
    fresh = ArtifactStore(root=s3_store.root, storage_options=s3_store.storage_options)
    assert fresh.read_json(same.at("a.json")) == 3


def test_an_update_that_expects_nothing_sees_what_is_there(s3_store: ArtifactStore) -> None:
    seen: list[bytes | None] = []

    def counted(data: bytes | None) -> bytes:
        seen.append(data)
        return b"1" if data is None else b"2"

    for _ in range(2):  # the same content as before is no answer to a write that was lost
        s3_store.update("attempt", counted, seen=ABSENT)
    assert (s3_store.fetch("attempt"), seen) == (b"2", [None, None, b"1"])
