import os

import pytest

from ad_assets.store import s3_objects
from ad_assets.store.checksums import CorruptArtifactError
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


def test_one_request_a_read_a_listing_and_a_commit(s3_endpoint: str, s3_store: ArtifactStore) -> None:
    with latency_proxy(s3_endpoint, 0) as proxy:
        store = ArtifactStore(root=s3_store.root, storage_options={"endpoint_url": proxy.endpoint})
        artifact = store.artifact("kind", "address")
        store.write_json(artifact.at("a.json"), 1)
        store.write_bytes(artifact.at("b"), b"2")
        artifact.commit({"metadata": {"x": 3}})
        # What this process wrote is known by its ETag, so that nothing is read again.
        assert [request.verb for request in proxy.requests()] == ["PUT", "PUT", "PUT", "LIST"]
        proxy.forget()
        assert (store.read_json(artifact.at("a.json")), artifact.facts()) == (1, {"x": 3})
        assert store.files("none") == []
        store.update("attempt", lambda _: b"1", absent=True)
        assert [request.verb for request in proxy.requests()] == ["RANGE", "LIST", "PUT"]


def test_a_file_of_another_process_is_read_at_the_commit(s3_store: ArtifactStore) -> None:
    other = ArtifactStore(root=s3_store.root, storage_options=s3_store.storage_options)
    artifact = s3_store.artifact("kind", "address")
    s3_store.write_bytes(artifact.at("a"), b"mine")
    other.write_bytes(artifact.at("a"), b"theirs")
    artifact.commit({"metadata": {}})
    assert s3_store.read_bytes(artifact.at("a")) == b"theirs"
    # And what is replaced later is refused, whatever this process remembers of the record.
    other.write_bytes(artifact.at("a"), b"later")
    with pytest.raises(CorruptArtifactError):
        s3_store.read_bytes(artifact.at("a"))


def test_an_update_that_expects_nothing_sees_what_is_there(s3_store: ArtifactStore) -> None:
    seen: list[bytes | None] = []

    def counted(data: bytes | None) -> bytes:
        seen.append(data)
        return b"1" if data is None else b"2"

    for _ in range(2):  # the same content as before is no answer to a write that was lost
        s3_store.update("attempt", counted, absent=True)
    assert (s3_store.fetch("attempt"), seen) == (b"2", [None, None, b"1"])
