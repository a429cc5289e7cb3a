"""The HTTP side of `hub_stub.py`: which path of the Hub's API is answered by what."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import yaml

if TYPE_CHECKING:
    from hub_stub import Fault, HubStub, Repo

TOKEN = "hf_stub_token"
LFS_SUFFIXES = (".safetensors", ".bin", ".onnx", ".parquet")  # what the Hub's .gitattributes sends to LFS
REPO = r"(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
FILE_REPO = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: "HubStub"  # set by the class that HubStub makes of this one

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        for fault in self.hub.faults:
            if fault.times > 0 and fault.method == self.command and fault.pattern in path:
                fault.times -= 1
                return self.go_wrong(fault)
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return answer(self, **match.groupdict())
        self.body()
        return self.error(404, f"the stub has no {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def log_message(self, *_):
        pass

    # ---- reading and answering

    def body(self, limit: int | None = None) -> bytes:
        """The request's body, or its first `limit` bytes."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = b""
            while size := int(self.rfile.readline(), 16):
                parts += self.rfile.read(size)
                self.rfile.readline()
                if limit is not None and len(parts) >= limit:
                    return parts
            self.rfile.readline()
            return parts
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length if limit is None else min(limit, length))

    def answer(self, content: bytes, status: int = 200, **headers: str):
        self.send_response(status)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(content))} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, content, status: int = 200, **headers: str):
        self.answer(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def error(self, status: int, message: str, code: str = ""):
        self.json({"error": message}, status, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))

    def go_wrong(self, fault: "Fault"):
        if fault.status is not None:
            self.body()
            return self.error(fault.status, f"the stub was told to answer {fault.status}")
        self.body(fault.after_bytes)
        fault.reached.set()
        if fault.stalls:
            self.connection.settimeout(60)
            try:
                while self.rfile.read1(65536):
                    pass  # until the client hangs up
            except OSError:
                pass
        self.close_connection = True
        self.connection.close()

    # ---- who may do what

    def is_user(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def may_write(self, repo: str) -> bool:
        """Whether the client may write to the repository; if not, it has its answer."""
        if not self.is_user():
            self.error(401, "Invalid username or password.")
            return False
        if repo.split("/")[0] not in ("user", *self.hub.organisations):
            self.error(403, f"You don't have the rights to write under the namespace of {repo}")
            return False
        return True

    def find(self, kind: str | None, repo: str, revision: str | None = None) -> "Repo | None":
        """The repository if the client may see it; else it has its answer."""
        found = self.hub.repos.get(repo if kind in (None, "models") else f"{kind}/{repo}")
        if found is None or (found.private and not self.is_user()):
            # To those who are not logged in the Hub does not say whether a repository exists.
            self.error(404 if self.is_user() else 401, "Repository not found", "RepoNotFound")
            return None
        if revision not in (None, "main", found.sha):  # there are no branches or tags here, and no past
            self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return found

    # ---- the API

    def whoami(self):
        if not self.is_user():
            return self.error(401, "Invalid username or password.")
        organisations = [{"name": name, "roleInOrg": "write"} for name in self.hub.organisations]
        token = {"type": "access_token", "accessToken": {"displayName": "stub", "role": "write"}}
        self.json({"type": "user", "name": "user", "orgs": organisations, "auth": token})

    def create(self):
        asked = json.loads(self.body())
        repo_id = f"{asked.get('organization') or 'user'}/{asked['name']}"
        kind = asked.get("type") or "model"
        key = repo_id if kind == "model" else f"{kind}s/{repo_id}"
        if not self.may_write(repo_id):
            return
        url = {"url": f"{self.hub.endpoint}/{key}", "name": repo_id}
        if key in self.hub.repos:
            return self.json(url | {"error": "You already created this model repo"}, 409)
        self.hub.make(key, private=asked.get("visibility") == "private" or asked.get("private") is True)
        self.json(url)

    def validate(self):
        errors = metadata_errors(json.loads(self.body())["content"])
        status = 400 if errors else 200
        if self.headers.get("Accept") == "text/plain":  # ModelCard.validate; create_commit asks for JSON
            return self.answer("\n".join(errors).encode(), status, Content_Type="text/plain")
        self.json({"errors": [{"message": message} for message in errors], "warnings": []}, status)

    def preupload(self, kind: str, repo: str):
        asked = json.loads(self.body())["files"]
        if self.may_write(repo) and (found := self.find(kind, repo)):
            self.json({"files": [self.upload_mode(found, file["path"]) for file in asked]})

    def upload_mode(self, repo: "Repo", path: str) -> dict:
        is_large = path.endswith(LFS_SUFFIXES)
        oid = None
        if path in repo.files:
            oid = sha256(repo.files[path]) if is_large else git_sha1(repo.files[path])
        return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}

    def lfs_batch(self, kind: str | None, repo: str):
        asked = json.loads(self.body())["objects"]
        if self.may_write(repo) and self.find(kind, repo):
            objects = []
            for item in asked:
                actions = {
                    "upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/lfs-verify"},
                }
                objects.append(item | ({} if item["oid"] in self.hub.blobs else {"actions": actions}))
            self.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str):
        content = self.body()
        if sha256(content) != oid:
            return self.error(400, f"the content is not {oid}")
        self.hub.blobs[oid] = content
        self.answer(b"")

    def lfs_verify(self):
        asked = json.loads(self.body())
        whole = len(self.hub.blobs.get(asked["oid"], b"")) == asked["size"]
        self.answer(b"") if whole else self.error(404, "no such object")

    def commit(self, kind: str, repo: str):
        lines = [json.loads(line) for line in self.body().splitlines()]
        if not (self.may_write(repo) and (found := self.find(kind, repo))):
            return
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.error(400, f"{value['path']}: its content was never uploaded")
                files[value["path"]] = self.hub.blobs[value["oid"]]
        found.files |= files
        found.commits.append((lines[0]["value"]["summary"], sorted(files)))
        self.json(
            {"success": True, "commitOid": found.sha, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{found.sha}"}
        )

    def info(self, kind: str, repo: str, revision: str | None):
        if found := self.find(kind, repo, revision):
            siblings = [{"rfilename": path} for path in sorted(found.files)]
            facts = {"id": repo, "modelId": repo, "sha": found.sha, "private": found.private, "siblings": siblings}
            self.json(facts | {"tags": [], "downloads": 0, "library_name": "transformers"})

    def tree(self, kind: str, repo: str, revision: str):
        if found := self.find(kind, repo, revision):
            self.json([_entry(path, content) for path, content in sorted(found.files.items())])

    def resolve(self, kind: str | None, repo: str, revision: str, path: str):
        if not (found := self.find(kind, repo, revision)):
            return
        if path not in found.files:
            return self.error(404, "Entry not found", "EntryNotFound")
        content = found.files[path]
        etag = sha256(content) if path.endswith(LFS_SUFFIXES) else git_sha1(content)
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": found.sha, "X_Linked_Size": str(len(content))}
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")  # a download that goes on
        if first and 0 < (start := int(first[1])) < len(content):
            where = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(content[start:], 206, Content_Range=where, **headers)
        self.answer(content, **headers)


ROUTES = [
    (("GET",), r"/api/whoami-v2", Handler.whoami),
    (("POST",), r"/api/repos/create", Handler.create),
    (("POST",), r"/api/validate-yaml", Handler.validate),
    (("POST",), rf"/api/{REPO}/preupload/[^/]+", Handler.preupload),
    (("POST",), rf"{FILE_REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    (("POST",), r"/lfs-verify", Handler.lfs_verify),
    (("POST",), rf"/api/{REPO}/commit/[^/]+", Handler.commit),
    (("GET",), rf"/api/{REPO}(?:/revision/(?P<revision>[^/]+))?", Handler.info),
    (("GET",), rf"/api/{REPO}/tree/(?P<revision>[^/]+)", Handler.tree),
    (("GET", "HEAD"), rf"{FILE_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


def metadata_errors(content: str) -> list[str]:
    """What is wrong with a card's front matter by the documented form (hub-docs, modelcard.md), where it is used."""
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(\n|$)", content, flags=re.DOTALL)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata is no mapping"]
    errors = [f"{key} must be a string" for key in ("pipeline_tag", "library_name") if not is_text(data.get(key, "-"))]
    for key in ("tags", "metrics"):
        if not all(map(is_text, data.get(key, []))):
            errors.append(f"{key} must be a list of strings")
    license_id = data.get("license", "other")
    if license_id not in ("apache-2.0", "mit", "cc-by-4.0", "other", "unknown"):
        errors.append(f"license {license_id!r} is none the stub knows")
    for example in data.get("widget", []):
        if not is_text(example.get("src")):
            errors.append("a widget example needs a src")
    for model in data.get("model-index", []):
        if not is_text(model.get("name")):
            errors.append("model-index: a name is missing")
        for result in model.get("results", []):
            for part, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
                missing = [key for key in keys if not is_text(result.get(part, {}).get(key))]
                errors += [f"model-index: {part}.{key} is missing" for key in missing]
            for metric in result.get("metrics") or [{}]:
                if not is_text(metric.get("type")) or "value" not in metric:
                    errors.append("model-index: a metric needs type and value")
    return errors


def is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
