"""Drives the embedded S3 endpoint with boto3: boto3_suite.py ENDPOINT ACCESS_KEY SECRET_KEY

Every function named test_… is run, each in a bucket of its own. Needs nothing but boto3.
"""

import base64
import datetime
import hashlib
import http.client
import io
import os
import sys
import traceback
import urllib.error
import urllib.parse
import urllib.request
import zlib

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import ClientError

ENDPOINT, ACCESS_KEY, SECRET_KEY = sys.argv[1:4]
MIB = 1 << 20


def client(secret=SECRET_KEY, access=ACCESS_KEY, **settings):
    settings = {"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 1}, **settings}
    return boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", **settings),
    )


s3 = client()


def refused(code, status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ClientError as error:
        got = (error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"])
        assert got == (code, status), got
        return error
    raise AssertionError(f"not refused with {code}")


def read(bucket, key, **kwargs):
    return s3.get_object(Bucket=bucket, Key=key, **kwargs)["Body"].read()


def test_buckets(bucket):
    s3.create_bucket(Bucket=bucket)  # the owner's second time
    s3.head_bucket(Bucket=bucket)
    listed = s3.list_buckets()
    assert bucket in [b["Name"] for b in listed["Buckets"]]
    assert listed["Owner"]["ID"]
    assert [b["Name"] for b in s3.list_buckets(Prefix=bucket)["Buckets"]] == [bucket]
    names, token = [], {}
    while True:
        page = s3.list_buckets(MaxBuckets=1, **token)
        names += [b["Name"] for b in page["Buckets"]]
        if "ContinuationToken" not in page:
            break
        token = {"ContinuationToken": page["ContinuationToken"]}
    assert names == sorted(b["Name"] for b in listed["Buckets"])
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    refused("BucketNotEmpty", 409, s3.delete_bucket, Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    refused("NoSuchBucket", 404, s3.delete_bucket, Bucket=bucket)
    refused("404", 404, s3.head_bucket, Bucket=bucket)
    for call in (s3.list_objects, s3.list_objects_v2, s3.list_multipart_uploads, s3.get_bucket_location):
        refused("NoSuchBucket", 404, call, Bucket=bucket)
    refused("NoSuchBucket", 404, s3.put_object, Bucket=bucket, Key="k", Body=b"x" * MIB)
    refused("NoSuchBucket", 404, s3.get_object, Bucket=bucket, Key="k")
    refused("NoSuchBucket", 404, s3.delete_object, Bucket=bucket, Key="k")
    refused("NoSuchBucket", 404, s3.create_multipart_upload, Bucket=bucket, Key="k")


def test_put_get_head_delete(bucket):
    body = os.urandom(100_000)
    put = s3.put_object(
        Bucket=bucket,
        Key="k",
        Body=body,
        ContentType="text/csv",
        CacheControl="max-age=60",
        ContentDisposition='attachment; filename="a b.csv"',
        ContentEncoding="gzip",
        ContentLanguage="de",
        Expires=datetime.datetime(2030, 1, 2, 3, 4, 5),
        Metadata={"one": "1", "Two-Words": "a b"},
    )
    etag = '"%s"' % hashlib.md5(body).hexdigest()
    assert put["ETag"] == etag
    for answer in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        assert answer["ETag"] == etag
        assert answer["ContentLength"] == len(body)
        assert answer["ContentType"] == "text/csv"
        assert answer["CacheControl"] == "max-age=60"
        assert answer["ContentDisposition"].startswith("attachment")
        assert answer["ContentEncoding"] == "gzip"
        assert answer["ContentLanguage"] == "de"
        assert answer["ExpiresString"] == "Wed, 02 Jan 2030 03:04:05 GMT"
        assert answer["Metadata"] == {"one": "1", "two-words": "a b"}
        assert answer["AcceptRanges"] == "bytes"
        age = datetime.datetime.now(datetime.timezone.utc) - answer["LastModified"]
        assert abs(age) < datetime.timedelta(minutes=5)
    assert read(bucket, "k") == body
    overridden = s3.get_object(Bucket=bucket, Key="k", ResponseContentType="text/plain")
    assert overridden["ContentType"] == "text/plain"
    s3.put_object(Bucket=bucket, Key="empty")
    assert read(bucket, "empty") == b""
    assert s3.head_object(Bucket=bucket, Key="empty")["ContentType"] == "binary/octet-stream"
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_object(Bucket=bucket, Key="k")
    refused("NoSuchKey", 404, s3.get_object, Bucket=bucket, Key="k")
    refused("404", 404, s3.head_object, Bucket=bucket, Key="k")


def test_ranges(bucket):
    body = os.urandom(10_000)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    for header, wanted in [
        ("bytes=0-0", body[:1]),
        ("bytes=0-", body),
        ("bytes=5000-", body[5000:]),
        ("bytes=9999-20000", body[9999:]),
        ("bytes=-10", body[-10:]),
        ("bytes=-20000", body),
    ]:
        answer = s3.get_object(Bucket=bucket, Key="k", Range=header)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert answer["Body"].read() == wanted, header
        start = len(body) - len(wanted) if header != "bytes=0-0" else 0
        assert answer["ContentRange"] == f"bytes {start}-{start + len(wanted) - 1}/{len(body)}"
        head = s3.head_object(Bucket=bucket, Key="k", Range=header)
        assert head["ContentLength"] == len(wanted)
    refused("InvalidRange", 416, s3.get_object, Bucket=bucket, Key="k", Range="bytes=10000-")
    s3.put_object(Bucket=bucket, Key="empty")
    refused("InvalidRange", 416, s3.get_object, Bucket=bucket, Key="empty", Range="bytes=0-")


def test_conditions(bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"one")["ETag"]
    hour = datetime.timedelta(hours=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    assert read(bucket, "k", IfMatch=etag) == b"one"
    assert read(bucket, "k", IfNoneMatch='"other"') == b"one"
    assert read(bucket, "k", IfModifiedSince=now - hour) == b"one"
    assert read(bucket, "k", IfUnmodifiedSince=now + hour) == b"one"
    for call, codes in ((s3.get_object, ("PreconditionFailed", "304")), (s3.head_object, ("412", "304"))):
        refused(codes[0], 412, call, Bucket=bucket, Key="k", IfMatch='"other"')
        refused(codes[0], 412, call, Bucket=bucket, Key="k", IfUnmodifiedSince=now - hour)
        error = refused(codes[1], 304, call, Bucket=bucket, Key="k", IfNoneMatch=etag)
        assert error.response["ResponseMetadata"]["HTTPHeaders"]["etag"] == etag
        refused(codes[1], 304, call, Bucket=bucket, Key="k", IfModifiedSince=now + hour)
    assert read(bucket, "k") == b"one"  # the connection is in order after a 304
    refused("PreconditionFailed", 412, s3.put_object, Bucket=bucket, Key="k", Body=b"two", IfNoneMatch="*")
    refused("PreconditionFailed", 412, s3.put_object, Bucket=bucket, Key="k", Body=b"two", IfMatch='"other"')
    refused("NoSuchKey", 404, s3.put_object, Bucket=bucket, Key="new", Body=b"two", IfMatch=etag)
    s3.put_object(Bucket=bucket, Key="k", Body=b"two", IfMatch=etag)
    s3.put_object(Bucket=bucket, Key="new", Body=b"two", IfNoneMatch="*")
    assert read(bucket, "k") == b"two"


def test_odd_keys(bucket):
    keys = ["a//b", "//", "/", "../x", "%2B", "+", " ", "a+b c%20d", "new\nline", "\r\n\t", "\x01", "<&>\"'", "&lt;", "ü" * 512]
    keys += [" lead", "trail ", "日本語/😀", ".", "..", "a/./b"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert read(bucket, key) == key.encode(), key
    in_order = sorted(keys, key=lambda key: key.encode())
    for pages in ("list_objects", "list_objects_v2"):
        listed = []
        for page in s3.get_paginator(pages).paginate(Bucket=bucket, PaginationConfig={"PageSize": 3}):
            listed += [o["Key"] for o in page["Contents"]]
        assert listed == in_order, pages
    in_xml = [key for key in keys if key != "\x01"]  # XML has no word for this one
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in in_xml]})
    assert "Errors" not in deleted
    s3.delete_object(Bucket=bucket, Key="\x01")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    refused("KeyTooLongError", 400, s3.put_object, Bucket=bucket, Key="x" * 1025, Body=b"")


def test_list(bucket):
    keys = ["a", "b/1", "b/2", "b/3/x", "c/1", "d", "d/", "e--f", "é/1"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"xx")
    keys.sort(key=lambda key: key.encode())
    everything = s3.list_objects_v2(Bucket=bucket, FetchOwner=True)
    assert [o["Key"] for o in everything["Contents"]] == keys
    first = everything["Contents"][0]
    assert (first["Size"], first["StorageClass"], first["Owner"]["ID"]) == (2, "STANDARD", "afterload")
    assert first["ETag"] == '"%s"' % hashlib.md5(b"xx").hexdigest()

    def names(page):
        return [o["Key"] for o in page.get("Contents", [])], [p["Prefix"] for p in page.get("CommonPrefixes", [])]

    folded = (["a", "d", "e--f"], ["b/", "c/", "d/", "é/"])
    for call in (s3.list_objects, s3.list_objects_v2):
        assert names(call(Bucket=bucket, Delimiter="/")) == folded
        assert names(call(Bucket=bucket, Delimiter="/", Prefix="b/")) == (["b/1", "b/2"], ["b/3/"])
        assert names(call(Bucket=bucket, Prefix="b")) == (["b/1", "b/2", "b/3/x"], [])
        assert names(call(Bucket=bucket, Delimiter="--", Prefix="e")) == ([], ["e--"])
        assert names(call(Bucket=bucket, Prefix="nothing")) == ([], [])
        none = call(Bucket=bucket, MaxKeys=0)
        assert names(none) == ([], []) and not none["IsTruncated"]
        refused("InvalidArgument", 400, call, Bucket=bucket, MaxKeys=-1)
    for pages in ("list_objects", "list_objects_v2"):
        for size in (1, 2, 3, 7):
            found = ([], [])
            options = {"Bucket": bucket, "Delimiter": "/", "PaginationConfig": {"PageSize": size}}
            for page in s3.get_paginator(pages).paginate(**options):
                assert len(page.get("Contents", [])) + len(page.get("CommonPrefixes", [])) <= size
                for all_names, more in zip(found, names(page)):
                    all_names += more
            assert found == folded, (pages, size, found)
    assert names(s3.list_objects_v2(Bucket=bucket, StartAfter="c/1"))[0] == keys[keys.index("c/1") + 1 :]
    assert names(s3.list_objects(Bucket=bucket, Marker="d"))[0] == keys[keys.index("d") + 1 :]
    refused("InvalidArgument", 400, s3.list_objects_v2, Bucket=bucket, ContinuationToken="?!")


def test_large_folders_are_skipped_over(bucket):
    for number in range(600):
        s3.put_object(Bucket=bucket, Key=f"a/{number}", Body=b"")
    s3.put_object(Bucket=bucket, Key="b", Body=b"")
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["a/"] and page["KeyCount"] == 2
    assert sum(len(p["Contents"]) for p in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 250})) == 601


def test_delete_objects(bucket):
    for key in "abc":
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}, {"Key": "nothing"}]})
    assert sorted(d["Key"] for d in answer["Deleted"]) == ["a", "nothing"]
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "b"}], "Quiet": True})
    assert "Deleted" not in quiet
    one = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "c", "VersionId": "v"}]})
    assert one["Errors"][0]["Code"] == "NoSuchVersion"
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["c"]


def test_multipart(bucket):
    parts = [os.urandom(5 * MIB), os.urandom(6 * MIB), os.urandom(10)]
    created = s3.create_multipart_upload(Bucket=bucket, Key="k", ContentType="text/csv", Metadata={"a": "b"})
    upload = {"Bucket": bucket, "Key": "k", "UploadId": created["UploadId"]}
    s3.upload_part(PartNumber=1, Body=b"to be replaced", **upload)
    etags = {}
    for number, body in ((7, parts[2]), (1, parts[0]), (3, parts[1])):
        etags[number] = s3.upload_part(PartNumber=number, Body=body, **upload)["ETag"]
    s3.upload_part(PartNumber=9, Body=b"not listed", **upload)

    listed = s3.list_parts(**upload)
    assert [(p["PartNumber"], p["Size"]) for p in listed["Parts"]] == [(1, 5 * MIB), (3, 6 * MIB), (7, 10), (9, 10)]
    page = s3.list_parts(MaxParts=2, **upload)
    assert page["IsTruncated"] and page["NextPartNumberMarker"] == 3
    assert [p["PartNumber"] for p in s3.list_parts(PartNumberMarker=3, **upload)["Parts"]] == [7, 9]
    assert [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload["UploadId"]]

    def complete(*numbers, **changed):
        listed = [{"PartNumber": n, "ETag": changed.get(f"etag_{n}", etags.get(n, '"none"'))} for n in numbers]
        return s3.complete_multipart_upload(MultipartUpload={"Parts": listed}, **upload)

    refused("404", 404, s3.head_object, Bucket=bucket, Key="k")
    refused("InvalidPartOrder", 400, complete, 3, 1)
    refused("InvalidPartOrder", 400, complete, 1, 1)
    refused("InvalidPart", 400, complete, 1, 2)
    refused("InvalidPart", 400, complete, 1, 3, etag_3='"0123"')
    refused("EntityTooSmall", 400, complete, 1, 7, 9, etag_9='"%s"' % hashlib.md5(b"not listed").hexdigest())
    refused("InvalidArgument", 400, s3.upload_part, PartNumber=10001, Body=b"", **upload)
    done = complete(1, 3, 7)
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    assert done["ETag"] == '"%s-3"' % hashlib.md5(digests).hexdigest()
    body = b"".join(parts)
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert answer["Body"].read() == body
    assert (answer["ContentType"], answer["Metadata"]) == ("text/csv", {"a": "b"})
    for start, end in ((5 * MIB - 5, 5 * MIB + 5), (11 * MIB - 1, 11 * MIB + 9), (0, 11 * MIB)):
        assert read(bucket, "k", Range=f"bytes={start}-{end}") == body[start : end + 1]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    refused("NoSuchUpload", 404, s3.upload_part, PartNumber=1, Body=b"x" * MIB, **upload)
    refused("NoSuchUpload", 404, s3.list_parts, **upload)
    refused("NoSuchUpload", 404, s3.abort_multipart_upload, **upload)


def test_uploads_are_listed_and_aborted(bucket):
    uploads = []
    for key in ("a", "a", "b/1", "c"):
        uploads.append((key, s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]))
    s3.upload_part(Bucket=bucket, Key="c", UploadId=uploads[3][1], PartNumber=1, Body=b"x")

    def listed(**options):
        page = s3.list_multipart_uploads(Bucket=bucket, **options)
        return [(u["Key"], u["UploadId"]) for u in page.get("Uploads", [])], page

    assert sorted(listed()[0]) == sorted(uploads)
    assert listed(Prefix="b/")[0] == [uploads[2]]
    assert [key for key, _ in listed(KeyMarker="a")[0]] == ["b/1", "c"]
    found = []
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1}):
        found += [(u["Key"], u["UploadId"]) for u in page["Uploads"]]
    assert found == listed()[0]
    for key, upload in uploads:
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    assert listed()[0] == []
    refused("NoSuchUpload", 404, s3.complete_multipart_upload, Bucket=bucket, Key="c", UploadId=uploads[3][1],
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "x"}]})


def test_files_of_any_size_through_the_transfer_manager(bucket):
    settings = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=4)
    for size in (0, 10, 8 * MIB, 20 * MIB + 3):
        body = os.urandom(size)
        s3.upload_fileobj(io.BytesIO(body), bucket, "k", Config=settings)
        back = io.BytesIO()
        s3.download_fileobj(bucket, "k", back, Config=settings)
        assert back.getvalue() == body, size


def test_checksums(bucket):
    body = os.urandom(2 * MIB)
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        put = s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm=algorithm)
        sent = put[f"Checksum{algorithm}"]
        answer = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
        assert answer[f"Checksum{algorithm}"] == sent
        assert answer["Body"].read() == body
        head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
        assert head[f"Checksum{algorithm}"] == sent and head["ChecksumType"] == "FULL_OBJECT"
    good = base64.b64encode(hashlib.md5(body).digest()).decode()
    s3.put_object(Bucket=bucket, Key="k", Body=body, ContentMD5=good)
    bad = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    refused("BadDigest", 400, s3.put_object, Bucket=bucket, Key="k", Body=b"x", ContentMD5=bad)
    refused("InvalidDigest", 400, s3.put_object, Bucket=bucket, Key="k", Body=b"x", ContentMD5="nonsense")
    refused("BadDigest", 400, s3.put_object, Bucket=bucket, Key="k", Body=b"x", ChecksumSHA256=base64.b64encode(b"0" * 32).decode())


def raw_put(bucket, key, body, trailer):
    """A chunked body with a trailing checksum, as boto3 sends it over HTTPS, with any checksum."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    framed = b"%x\r\n%s\r\n0\r\n" % (len(body), body) + trailer + b"\r\n"
    request = AWSRequest("PUT", f"{ENDPOINT}/{bucket}/{key}", data=framed, headers={
        "x-amz-decoded-content-length": str(len(body)),
        "content-encoding": "aws-chunked",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "content-length": str(len(framed)),
    })

    class Trailing(SigV4Auth):
        def payload(self, request):
            return "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

        def _modify_request_before_signing(self, request):
            super()._modify_request_before_signing(request)
            request.headers["X-Amz-Content-SHA256"] = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    Trailing(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    sent = urllib.request.Request(request.url, data=framed, headers=dict(request.headers), method="PUT")
    try:
        with urllib.request.urlopen(sent) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_trailing_checksums(bucket):
    import zlib

    body = os.urandom(100_000)
    right = base64.b64encode(zlib.crc32(body).to_bytes(4, "big"))
    assert raw_put(bucket, "k", body, b"x-amz-checksum-crc32:" + right + b"\r\n") == (200, "")
    assert read(bucket, "k") == body
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == right.decode()
    assert "ContentEncoding" not in head
    status, answer = raw_put(bucket, "bad", body, b"x-amz-checksum-crc32:AAAAAA==\r\n")
    assert status == 400 and "<Code>BadDigest</Code>" in answer, answer
    status, answer = raw_put(bucket, "bad", body, b"")
    assert status == 400 and "<Code>InvalidRequest</Code>" in answer, answer
    refused("404", 404, s3.head_object, Bucket=bucket, Key="bad")


def test_signatures(bucket):
    refused("SignatureDoesNotMatch", 403, client(secret="wrong").list_buckets)
    refused("InvalidAccessKeyId", 403, client(access="AKIAWRONG").list_buckets)
    refused("SignatureDoesNotMatch", 403, client(secret="wrong").put_object, Bucket=bucket, Key="k", Body=b"x")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "a b+ü"}, ExpiresIn=60)
    with urllib.request.urlopen(urllib.request.Request(url, data=b"presigned", method="PUT")) as answer:
        assert answer.status == 200
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a b+ü"}, ExpiresIn=60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"presigned"
    for broken in (url[:-1] + ("0" if url[-1] != "0" else "1"), url.replace("Expires=60", "Expires=61"), url.replace("a%20b", "a%20c")):
        try:
            urllib.request.urlopen(broken)
            raise AssertionError("accepted")
        except urllib.error.HTTPError as error:
            assert error.code == 403


def http_call(method, url, body=None, **headers):
    """Without boto3: (status, headers, body)."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, method=method, headers=headers)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_presigned(bucket):
    from unittest import mock

    import botocore.auth

    given = {"Bucket": bucket, "Key": "a.csv", "ContentType": "text/csv", "Metadata": {"a": "b"}}
    url = s3.generate_presigned_url("put_object", Params=given, ExpiresIn=60)
    signed = {"Content-Type": "text/csv", "x-amz-meta-a": "b"}
    status, _, body = http_call("PUT", url, b"x", **signed)
    assert status == 200, body
    head = s3.head_object(Bucket=bucket, Key="a.csv")
    assert (head["ContentType"], head["Metadata"]) == ("text/csv", {"a": "b"})
    for wrong in ({**signed, "Content-Type": "text/html"}, {"Content-Type": "text/csv"}):
        status, _, body = http_call("PUT", url, b"x", **wrong)
        assert status in (400, 403), (wrong, status, body)
    status, _, body = http_call("PUT", url, b"x", **signed, x_amz_meta_evil="1")
    assert status == 403 and b"not signed" in body, (status, body)
    assert http_call("GET", url)[0] == 403, "an address to write is none to read"
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a.csv", "ResponseContentDisposition": "attachment"}, ExpiresIn=60)
    status, headers, body = http_call("GET", url, Range="bytes=0-0")
    assert (status, body, headers["Content-Disposition"]) == (206, b"x", "attachment")
    name = "get_current_datetime" if hasattr(botocore.auth, "get_current_datetime") else None
    assert name, "botocore asks for the time in another way now"
    for ago, expected in ((59, 200), (120, 403)):
        past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago)
        with mock.patch.object(botocore.auth, name, lambda *_, **__: past):
            url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a.csv"}, ExpiresIn=90)
        assert http_call("GET", url)[0] == expected, ago


def test_presigned_lifetimes(bucket):
    s3.put_object(Bucket=bucket, Key="a.csv", Body=b"x")
    for seconds, expected in ((604800, 200), (604801, 400), (0, 400), (-1, 400)):
        url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a.csv"}, ExpiresIn=seconds)
        status, _, body = http_call("GET", url)
        assert status == expected and (status == 200 or b"AuthorizationQueryParametersError" in body), (seconds, status, body)


def test_headers_that_nobody_signed(bucket):
    s3.put_object(Bucket=bucket, Key="secret", Body=b"secret")
    for name, value in (("x-amz-copy-source", f"/{bucket}/secret"), ("x-amz-meta-added", "1"), ("X-Amz-Metadata-Directive", "REPLACE")):
        other = client()

        def add_header(request, name=name, value=value, **_):
            request.headers[name] = value

        other.meta.events.register("before-send.s3.PutObject", add_header)
        refused("AccessDenied", 403, other.put_object, Bucket=bucket, Key="k", Body=b"mine")
    refused("404", 404, s3.head_object, Bucket=bucket, Key="k")


def test_pages_of_other_origins(bucket):
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    asked = {"Origin": "https://example.com", "Access-Control-Request-Method": "PUT"}
    status, headers, _ = http_call("OPTIONS", url, **asked, Access_Control_Request_Headers="content-type, authorization")
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert "PUT" in headers["Access-Control-Allow-Methods"]
    assert headers["Access-Control-Allow-Headers"] == "content-type"
    status, headers, _ = http_call("PUT", url, b"x", Origin="https://example.com")
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert "ETag" in headers["Access-Control-Expose-Headers"]


def test_public_buckets(bucket):
    s3.create_bucket(Bucket="public")
    s3.put_object(Bucket="public", Key="a b/ü.jpg", Body=b"jpeg", ContentType="image/jpeg", CacheControl="max-age=60")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    address = f"{ENDPOINT}/public/{urllib.parse.quote('a b/ü.jpg')}"
    status, headers, body = http_call("GET", address, Origin="https://example.com")
    assert (status, body, headers["Content-Type"], headers["Cache-Control"]) == (200, b"jpeg", "image/jpeg", "max-age=60")
    assert (headers["X-Content-Type-Options"], headers["Access-Control-Allow-Origin"]) == ("nosniff", "*")
    assert http_call("GET", address, If_None_Match=headers["ETag"])[0] == 304
    assert http_call("HEAD", address)[0] == 200
    assert http_call("GET", f"{ENDPOINT}/public/nothing")[0] == 404
    for method, other in (
        ("GET", f"{ENDPOINT}/public"),
        ("GET", f"{ENDPOINT}/public?list-type=2"),
        ("GET", f"{address}?response-content-type=text/html"),
        ("GET", f"{address}?acl"),
        ("GET", f"{ENDPOINT}/{bucket}/k"),
        ("PUT", f"{ENDPOINT}/public/k"),
        ("DELETE", address),
        ("POST", f"{ENDPOINT}/public?delete"),
    ):
        status = http_call(method, other, b"" if method in ("PUT", "POST") else None)[0]
        assert status in (403, 501), (method, other, status)


def test_copies(bucket):
    body = os.urandom(6 * MIB)
    put = s3.put_object(Bucket=bucket, Key="a b+ü", Body=body, ContentType="text/csv", CacheControl="no-store", Metadata={"a": "b"})
    source = {"Bucket": bucket, "Key": "a b+ü"}
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)["CopyObjectResult"]
    assert copied["ETag"] == put["ETag"] and copied["LastModified"]
    answer = s3.get_object(Bucket=bucket, Key="copy")
    assert answer["Body"].read() == body
    assert (answer["ContentType"], answer["CacheControl"], answer["Metadata"]) == ("text/csv", "no-store", {"a": "b"})
    refused("InvalidRequest", 400, s3.copy_object, Bucket=bucket, Key="a b+ü", CopySource=source)
    s3.copy_object(Bucket=bucket, Key="a b+ü", CopySource=source, MetadataDirective="REPLACE", ContentType="text/plain", Metadata={"c": "d"})
    head = s3.head_object(Bucket=bucket, Key="a b+ü")
    assert (head["ContentType"], head["Metadata"], head["ContentLength"]) == ("text/plain", {"c": "d"}, len(body))
    refused("NoSuchKey", 404, s3.copy_object, Bucket=bucket, Key="x", CopySource=f"{bucket}/nothing")
    refused("NoSuchBucket", 404, s3.copy_object, Bucket=bucket, Key="x", CopySource="nobucket/nothing")
    refused("NoSuchBucket", 404, s3.copy_object, Bucket="nobucket", Key="x", CopySource=source)
    refused("PreconditionFailed", 412, s3.copy_object, Bucket=bucket, Key="x", CopySource=source, CopySourceIfMatch='"other"')
    refused("PreconditionFailed", 412, s3.copy_object, Bucket=bucket, Key="x", CopySource=source, CopySourceIfNoneMatch=put["ETag"])
    s3.copy_object(Bucket=bucket, Key="x", CopySource=source, CopySourceIfMatch=put["ETag"])

    upload = s3.create_multipart_upload(Bucket=bucket, Key="joined")
    to = {"Bucket": bucket, "Key": "joined", "UploadId": upload["UploadId"]}
    ranges = ((1, "bytes=0-5242879"), (2, f"bytes=5242880-{len(body) - 1}"))
    parts = []
    for number, stretch in ranges:
        part = s3.upload_part_copy(PartNumber=number, CopySource=source, CopySourceRange=stretch, **to)["CopyPartResult"]
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    for wrong in ("bytes=0-", "bytes=5-4", f"bytes=0-{len(body)}", "0-1"):
        code = "InvalidRequest" if wrong.endswith(str(len(body))) else "InvalidArgument"
        refused(code, 400, s3.upload_part_copy, PartNumber=3, CopySource=source, CopySourceRange=wrong, **to)
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **to)
    assert read(bucket, "joined") == body
    s3.copy({"Bucket": bucket, "Key": "joined"}, bucket, "managed", Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB))
    assert read(bucket, "managed") == body
    assert s3.get_object_tagging(Bucket=bucket, Key="managed")["TagSet"] == []


def test_too_large(bucket):
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    parts = urllib.parse.urlsplit(url)
    for size, code in (((5 << 30) + 1, b"EntityTooLarge"), (None, b"")):
        connection = http.client.HTTPConnection(parts.netloc, timeout=20)
        connection.putrequest("PUT", f"{parts.path}?{parts.query}")
        connection.putheader("Content-Length", str(size if size else 3))
        connection.endheaders()
        if not size:
            connection.send(b"abc")
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == (400 if size else 200) and code in body, (answer.status, body)
    refused("MetadataTooLarge", 400, s3.put_object, Bucket=bucket, Key="k", Body=b"", Metadata={"a": "x" * 2048})
    assert read(bucket, "k") == b"abc"


def test_half_a_body(bucket):
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b"only this")
    connection.close()
    refused("404", 404, s3.head_object, Bucket=bucket, Key="k")


def test_a_refused_body_is_not_the_next_request(bucket):
    # Nobody read the body, so the connection must not be used again: who does so is told to open another.
    for waits in (True, False):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(ENDPOINT).netloc, timeout=20)
        connection.putrequest("PUT", f"/{bucket}/k")
        connection.putheader("Content-Length", "1000000000" if not waits else "1")
        if waits:
            connection.putheader("Expect", "100-continue")
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Connection")) == (403, "close"), answer.getheaders()
        connection.close()
    for _ in range(50):
        refused("NotImplemented", 501, s3.put_object, Bucket=bucket, Key="k", Body=b"y", ACL="public-read")
        refused("NotImplemented", 501, s3.put_object_tagging, Bucket=bucket, Key="k", Tagging={"TagSet": []})


def test_not_implemented(bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    refused("NotImplemented", 501, s3.get_bucket_versioning, Bucket=bucket)
    refused("NotImplemented", 501, s3.copy_object, Bucket=bucket, Key="l", CopySource=f"{bucket}/k", ChecksumAlgorithm="SHA1")
    refused("NotImplemented", 501, s3.put_object, Bucket=bucket, Key="k", Body=b"y", ACL="public-read")
    refused("NotImplemented", 501, s3.put_object_tagging, Bucket=bucket, Key="k", Tagging={"TagSet": []})
    refused("NotImplemented", 501, s3.get_object, Bucket=bucket, Key="k", PartNumber=1)
    refused("NoSuchVersion", 404, s3.get_object, Bucket=bucket, Key="k", VersionId="v")
    assert read(bucket, "k", VersionId="null") == b"x"


# The operations of the store; all others of S3 are refused.
IMPLEMENTED = set(
    "AbortMultipartUpload CompleteMultipartUpload CopyObject CreateBucket CreateMultipartUpload DeleteBucket DeleteObject"
    " DeleteObjects GetBucketLocation GetObject GetObjectTagging HeadBucket HeadObject ListBuckets ListMultipartUploads"
    " ListObjects ListObjectsV2 ListParts PutObject UploadPart UploadPartCopy".split()
)


def smallest_value(shape, name, bucket):
    """The least that botocore accepts for a shape: required members only."""
    if name in ("CopySource", "RenameSource"):
        return f"/{bucket}/k"
    known = {"Bucket": bucket, "Key": "k", "VersionId": "null"}.get(name)
    if known:
        return known
    if shape.type_name == "structure":
        members = shape.required_members
        if getattr(shape, "is_tagged_union", False) and not members:
            members = list(shape.members)[:1]
        return {member: smallest_value(shape.members[member], member, bucket) for member in members}
    if shape.type_name == "list":
        return [smallest_value(shape.member, name, bucket)]
    if shape.type_name == "map":
        return {"a": smallest_value(shape.value, name, bucket)}
    if shape.type_name == "string":
        return shape.enum[0] if shape.enum else "a" * max(1, shape.metadata.get("min", 1))
    values = {"blob": b"a", "boolean": True, "timestamp": datetime.datetime(2030, 1, 1)}
    return values.get(shape.type_name, 1)


def stored_state(mine, others=False):
    """All that a client can see of these buckets, and what lists tell of the others."""
    state = {}
    for found in s3.list_buckets()["Buckets"]:
        bucket, objects, uploads = found["Name"], [], []
        if bucket not in mine:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket) if others else []
            state[bucket] = (found["CreationDate"], [page.get("Contents") for page in pages])
            continue
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for listed in page.get("Contents", []):
                head = s3.head_object(Bucket=bucket, Key=listed["Key"])
                kept = ("ETag", "ContentLength", "ContentType", "Metadata", "LastModified")
                objects.append((listed["Key"], listed["LastModified"], {name: head[name] for name in kept}))
        for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for listed in page.get("Uploads", []):
                parts = s3.list_parts(Bucket=bucket, Key=listed["Key"], UploadId=listed["UploadId"]).get("Parts", [])
                uploads.append((listed["Key"], listed["UploadId"], [(part["PartNumber"], part["ETag"]) for part in parts]))
        state[bucket] = (found["CreationDate"], objects, uploads)
    return state


def test_other_operations_change_nothing(bucket):
    from botocore import xform_name

    s3.put_object(Bucket=bucket, Key="k", Body=b"kept", Metadata={"a": "b"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="part")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="part", UploadId=upload, PartNumber=1, Body=b"kept")
    s3.create_bucket(Bucket=f"{bucket[:40]}-empty")  # one that could be deleted
    plain = client(inject_host_prefix=False, parameter_validation=False)
    names = plain.meta.service_model.operation_names
    assert IMPLEMENTED <= set(names), IMPLEMENTED - set(names)
    # Other buckets are compared at the end: looking at the objects of all other tests takes long.
    mine = (bucket, f"{bucket[:40]}-empty")
    whole = stored_state(mine, others=True)
    before, wrong = stored_state(mine), []
    for name in sorted(set(names) - IMPLEMENTED):
        model = plain.meta.service_model.operation_model(name)
        for target in mine:
            given = smallest_value(model.input_shape, "", target) if model.input_shape else {}
            try:
                plain._make_api_call(name, given)
                got = "accepted"
            except ClientError as error:
                got = (error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"])
            # The path of this one is a bucket that cannot exist.
            expected = ("InvalidBucketName", 400) if name == "WriteGetObjectResponse" else ("NotImplemented", 501)
            if got != expected:
                wrong.append((name, got))
        after = stored_state(mine)
        if after != before:
            wrong.append((name, "changed the store", before, after))
            before = after
    assert not wrong, wrong
    assert read(bucket, "k") == b"kept"
    # Any name that S3 may give to a new operation, and headers that turn one operation into another.
    for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "k"), ("PUT", "k"), ("DELETE", "k"), ("HEAD", "k")):
        status, _, body = signed_call(method, f"/{bucket}/{path}".rstrip("/"), "newOperation")
        assert status == 501, (method, path, status, body)
    status, _, body = signed_call("PUT", f"/{bucket}/k", "", {"x-amz-rename-source": f"/{bucket}/k"}, b"mine")
    assert status == 501, (status, body)
    assert stored_state(mine, others=True) == whole


def signed_call(method, path, query, headers=None, body=b""):
    """A request that boto3 does not make, signed in its header."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method, f"{ENDPOINT}{path}" + (f"?{query}=" if query else ""), headers=headers or {}, data=body)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    sent = request.prepare()
    headers = {name: value if isinstance(value, str) else value.decode() for name, value in sent.headers.items()}
    try:
        wanted = urllib.request.Request(sent.url, data=body or None, method=method, headers=headers)
        with urllib.request.urlopen(wanted) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_headers_without_effect_are_accepted(bucket):
    harmless = {"ACL": "private", "StorageClass": "STANDARD", "ServerSideEncryption": "AES256", "Tagging": ""}
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **harmless)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="bucket-owner-full-control")
    for refusing in ({"ACL": "public-read"}, {"StorageClass": "GLACIER"}, {"ServerSideEncryption": "aws:kms"}, {"Tagging": "a=b"}):
        error = refused("NotImplemented", 501, s3.put_object, Bucket=bucket, Key="k", Body=b"y", **refusing)
        assert "leave it out" in error.response["Error"]["Message"], error.response
    assert read(bucket, "k") == b"x"


def test_headers_in_a_presigned_query(bucket):
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    def presign(**hoisted):
        query = urllib.parse.urlencode({name.replace("_", "-"): value for name, value in hoisted.items()})
        request = AWSRequest("PUT", f"{ENDPOINT}/{bucket}/k?{query}")
        S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1", expires=60).add_auth(request)
        return request.prepare().url

    crc = base64.b64encode(zlib.crc32(b"right").to_bytes(4, "big")).decode()
    given = {"x_amz_meta_a": "b", "x_amz_acl": "private", "x_amz_checksum_crc32": crc, "x_amz_sdk_checksum_algorithm": "CRC32"}
    status, _, body = http_call("PUT", presign(**given), b"right")
    assert status == 200, (status, body)
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"a": "b"}
    status, _, body = http_call("PUT", presign(**given), b"wrong")
    assert status == 400 and b"BadDigest" in body, (status, body)
    status, _, body = http_call("PUT", presign(x_amz_acl="public-read"), b"wrong")
    assert status == 501, (status, body)
    status, _, body = http_call("PUT", presign(x_amz_rename_source=f"/{bucket}/k"), b"wrong")
    assert status == 501, (status, body)
    assert read(bucket, "k") == b"right"


def test_old_signatures_are_explained(bucket):
    keys = {"endpoint_url": ENDPOINT, "aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    given = {"Params": {"Bucket": bucket, "Key": "k"}, "ExpiresIn": 60}
    old = boto3.client("s3", region_name="us-east-1", config=Config(signature_version="s3"), **keys)
    status, _, body = http_call("PUT", old.generate_presigned_url("put_object", **given), b"x")
    assert status == 403 and b"s3v4" in body and b"region" in body, (status, body)
    # The region that `afterload key s3` prints.
    new = boto3.client("s3", region_name="local", **keys)
    status, _, body = http_call("PUT", new.generate_presigned_url("put_object", **given), b"x")
    assert status == 200, (status, body)
    assert read(bucket, "k") == b"x"


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    failed = 0
    for name, test in tests.items():
        bucket = name.replace("_", "-")[:63].rstrip("-")
        s3.create_bucket(Bucket=bucket)
        try:
            test(bucket)
            print("ok", name)
        except Exception:
            failed += 1
            print("FAILED", name)
            traceback.print_exc(file=sys.stdout)
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
