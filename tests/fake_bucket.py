"""A fake of Google Cloud Storage on loopback, for tests of gs:// paths without a network.

It implements the part of the JSON API, and of XML downloads, that TensorFlow (`tf.io.gfile`, and epath through it),
tensorstore and google-cloud-storage use. Every bucket exists. To try by hand: `python -m tests.fake_bucket`.
"""

import base64
import datetime
import hashlib
import http.server
import itertools
import json
import os
import random
import re
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_HOSTS = ('storage.googleapis.com', 'www.googleapis.com')  # hosts of TensorFlow, not configurable
_URL = re.compile(
  r'(?P<service>/upload|/download)?/storage/v1/b/(?P<bucket>[^/]+)(?:/storageLayout|(?P<list>/o)(?:/(?P<name>[^/]+)'
  r'(?:/(?P<verb>rewriteTo|copyTo|compose)(?:/b/(?P<to_bucket>[^/]+)/o/(?P<to_name>[^/]+))?)?)?)?'
)
_XML_URL = re.compile(r'/(?P<bucket>[^/]+)/(?P<name>.+)')
_GENERATIONS = itertools.count(time.time_ns() // 1000)


class Request(NamedTuple):
  """One entry of the log."""

  time: float  # of the answer, as `time.time()`
  method: str
  kind: str  # bucket, list, stat, read, session (start of a resumable upload), upload, patch, delete, rewrite, compose
  name: str  # 'bucket/object'; of a listing 'bucket/prefix'
  sent: int  # bytes of the answer's body
  received: int  # bytes of the request's body
  status: int


class Blob(bytes):
  """An object's data, with its metadata as attributes."""

  def __new__(cls, data: bytes, fields: Mapping[str, object] | None = None):
    """`fields`: writable metadata of the JSON API, such as contentType."""
    self = super().__new__(cls, data)
    self.fields = {'contentType': 'application/octet-stream', **(fields or {})}
    self.generation, self.metageneration = next(_GENERATIONS), 1
    self.updated = datetime.datetime.now(datetime.UTC)
    self.md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    return self

  def resource(self, key: str) -> dict[str, object]:
    """The object's metadata in the form of the JSON API."""
    bucket, _, name = key.partition('/')
    numbers = {'size': len(self), 'generation': self.generation, 'metageneration': self.metageneration}
    return {
      **self.fields,
      **{field: str(number) for field, number in numbers.items()},
      'kind': 'storage#object',
      'bucket': bucket,
      'name': name,
      'etag': f'{self.generation}/{self.metageneration}',
      'md5Hash': self.md5,
      'updated': f'{self.updated:%Y-%m-%dT%H:%M:%S.%f}'[:-3] + 'Z',
    }

  def headers(self) -> dict[str, str]:
    """The headers of a download."""
    return {
      'Content-Type': str(self.fields['contentType']),
      'ETag': f'"{self.generation}/{self.metageneration}"',
      'Last-Modified': f'{self.updated:%a, %d %b %Y %H:%M:%S} GMT',
      'x-goog-generation': str(self.generation),
      'x-goog-metageneration': str(self.metageneration),
      'x-goog-hash': f'md5={self.md5}',
      'x-goog-stored-content-length': str(len(self)),
    }


class _Upload:
  """A resumable upload; once it is complete, `resource` is the object's metadata."""

  def __init__(self, key: str, query: dict[str, str], fields: dict[str, object]):
    self.key, self.query, self.fields = key, query, fields
    self.data, self.resource = bytearray(), None


class _Call(NamedTuple):
  """A parsed request. Methods that take a `_Call` return status, headers and content; a dict is sent as JSON."""

  key: str
  target: dict[str, str]  # the groups of `_URL`
  query: dict[str, str]
  headers: Mapping[str, str]
  fields: dict[str, object]  # metadata that comes with an upload
  body: bytes


class _Refused(Exception):
  """Its argument is the HTTP status of the answer."""


class FakeBucket:
  """The server, a context manager; its attributes may be changed while it runs.

  Attributes:
    objects: 'bucket/name' -> `Blob`. Tests may add and remove objects.
    environment: variables for a child process that direct its gs:// paths to this server.
    fail_share: probability that a request is answered with `status` and has no effect.
    status: the HTTP status of these failures.
    latency: seconds before each answer.
    missing: keys of `objects` that are listed, but answer 404 to every request other than an upload.
    log: every request, in the order of the answers.
  """

  def __init__(self, port: int = 0, seed: int = 0):
    self.objects: dict[str, Blob] = {}
    self.environment: dict[str, str] = {}
    self.fail_share, self.status, self.latency = 0.0, 503, 0.0
    self.missing: set[str] = set()
    self.log: list[Request] = []
    self._lock = threading.Lock()
    self._random = random.Random(seed)
    self._uploads: dict[str, _Upload] = {}
    self._port = port

  def __enter__(self):
    self._folder = tempfile.TemporaryDirectory()
    certificate = os.path.join(self._folder.name, 'certificate.pem')
    _write_certificate(certificate)
    self._server = _Server(('127.0.0.1', self._port), _Handler)
    self._server.bucket = self
    self._server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    self._server.tls.load_cert_chain(certificate)
    threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
    url = f'http://127.0.0.1:{self._server.server_port}'
    self.environment = {
      'TENSORSTORE_GCS_HTTP_URL': url,
      'STORAGE_EMULATOR_HOST': url,  # google-cloud-storage; it then needs neither credentials nor a project
      'https_proxy': url,  # TensorFlow; the proxy refuses all other hosts
      'no_proxy': '127.0.0.1,localhost',
      'CURL_CA_BUNDLE': certificate,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'x',  # otherwise TensorFlow and tensorstore ask GCE's metadata server
    }
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()
    self._folder.cleanup()

  def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes):
    """Executes a request and logs it; returns status, headers and body of the answer. `url` has scheme and host."""
    parts = urllib.parse.urlsplit(url)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    match = _URL.fullmatch(parts.path) or _XML_URL.fullmatch(parts.path)
    target = {group: urllib.parse.unquote(text or '') for group, text in match.groupdict().items()} if match else {}
    time.sleep(self.latency)
    with self._lock:
      kind, call = self._parse(method, target, query, headers, body)
      try:
        if self._random.random() < self.fail_share:
          raise _Refused(self.status)
        if not target or call.key in self.missing and kind not in ('list', 'session', 'upload'):
          raise _Refused(404)
        status, more, content = getattr(self, f'_{kind}')(call)
        if kind == 'session':
          more = {'Location': f'{parts.scheme}://{parts.netloc}{parts.path}?{urllib.parse.urlencode(more)}'}
      except _Refused as error:
        (status,), more = error.args, {}
        content = {'error': {'code': status, 'message': f'fake bucket: {status} for {kind} {call.key}'}}
      if isinstance(content, dict):
        more, content = {**more, 'Content-Type': 'application/json'}, json.dumps(content).encode()
      self.log.append(Request(time.time(), method, kind, call.key, len(content), len(body), status))
    return status, more, content

  def _parse(self, method, target, query, headers, body):
    """Returns the kind of a request, which names the method that answers it, and a `_Call`."""
    fields, name = {}, target.get('name', '')
    is_media = target.get('service') or not target.get('list') or query.get('alt') == 'media'
    kind = 'read' if is_media else 'stat'
    if target.get('service') == '/upload' and query.get('upload_id') in self._uploads:
      kind, name = 'upload', self._uploads[query['upload_id']].key.partition('/')[2]
    elif target.get('service') == '/upload':
      kind, fields, body = _parse_upload(query, headers, body)
      name = query.get('name') or fields.get('name', '')
    elif target.get('verb'):
      kind = 'compose' if target['verb'] == 'compose' else 'rewrite'
    elif not name:
      kind, name = ('list', query.get('prefix', '')) if target.get('list') else ('bucket', '')
    elif method in ('DELETE', 'PATCH'):
      kind = method.lower()
    return kind, _Call(f'{target.get("bucket", "")}/{name}', target, query, headers, fields, body)

  def _get(self, key, query, prefix='if', unchanged=412):
    """The object of a key; raises `_Refused` if there is none, or as `_check` does."""
    if key not in self.objects:
      raise _Refused(404)
    self._check(key, query, prefix, unchanged)
    return self.objects[key]

  def _check(self, key, query, prefix='if', unchanged=412):
    """Raises `_Refused` if a precondition in `query` fails: 412, or `unchanged` for a ...NotMatch."""
    for field in 'generation', 'metageneration':
      value = str(getattr(self.objects.get(key), field, 0))
      if query.get(f'{prefix}{field.title()}Match', value) != value:
        raise _Refused(412)
      if query.get(f'{prefix}{field.title()}NotMatch') == value:
        raise _Refused(unchanged)

  def _put(self, key, query, data, fields):
    self._check(key, query)
    self.objects[key] = Blob(data, fields)
    return self.objects[key].resource(key)

  def _bucket(self, call):
    about = {'name': call.target['bucket'], 'location': 'US', 'locationType': 'multi-region'}
    return 200, {}, {'kind': 'storage#bucket', **about, 'hierarchicalNamespace': {'enabled': False}}

  def _list(self, call):
    query, bucket = call.query, call.target['bucket'] + '/'
    prefix, delimiter, token = query.get('prefix', ''), query.get('delimiter'), query.get('pageToken', '')
    found = {}  # names, and prefixes up to the delimiter -> whether it is a name
    for name in sorted(key[len(bucket) :] for key in self.objects if key.startswith(bucket + prefix)):
      if query.get('startOffset', '') <= name and ('endOffset' not in query or name < query['endOffset']):
        end = name.find(delimiter, len(prefix)) if delimiter else -1
        found[name if end < 0 else name[: end + len(delimiter)]] = end < 0
    names = [name for name in found if name > token]
    page = names[: int(query.get('maxResults', 1000))]
    items = [self.objects[bucket + name].resource(bucket + name) for name in page if found[name]]
    answer = {'kind': 'storage#objects', 'items': items, 'prefixes': [name for name in page if not found[name]]}
    return 200, {}, answer | ({'nextPageToken': page[-1]} if len(page) < len(names) else {})

  def _stat(self, call):
    return 200, {}, self._get(call.key, call.query, unchanged=304).resource(call.key)

  def _read(self, call):
    blob = self._get(call.key, call.query, unchanged=304)
    if call.query.get('generation', str(blob.generation)) != str(blob.generation):
      raise _Refused(404)
    span = re.fullmatch(r'bytes=(\d*)-(\d*)', call.headers.get('Range') or '')
    if not span:
      return 200, blob.headers(), memoryview(blob)
    first, last = span.groups()
    start = int(first) if first else max(0, len(blob) - int(last))
    stop = min(len(blob), int(last) + 1) if first and last else len(blob)
    if start >= stop:
      raise _Refused(416)
    more = {'Content-Range': f'bytes {start}-{stop - 1}/{len(blob)}'}
    return 206, blob.headers() | more, memoryview(blob)[start:stop]

  def _session(self, call):
    upload_id = str(len(self._uploads))
    self._uploads[upload_id] = _Upload(call.key, call.query, call.fields)
    return 200, {'uploadType': 'resumable', 'upload_id': upload_id}, b''

  def _upload(self, call):
    if 'upload_id' not in call.query:
      return 200, {}, self._put(call.key, call.query, call.body, call.fields)
    upload = self._uploads.get(call.query['upload_id'])
    if not upload:
      raise _Refused(404)
    if upload.resource is None:
      span = call.headers.get('Content-Range') or f'bytes 0-/{len(call.body)}'
      start, total = re.fullmatch(r'bytes (\d+|\*)(?:-\d*)?/(\d+|\*)', span).groups()
      if start != '*':
        if int(start) > len(upload.data):
          raise _Refused(400)
        upload.data[int(start) :] = call.body
      if total != str(len(upload.data)):
        return 308, {'Range': f'bytes=0-{len(upload.data) - 1}'} if upload.data else {}, b''
      # The fake computes no crc32c; google-cloud-storage fails unless its own value is returned.
      crc32c = re.search('crc32c=([^,]+)', call.headers.get('x-goog-hash') or '')
      fields = upload.fields | ({'crc32c': crc32c[1]} if crc32c else {})
      upload.resource = self._put(upload.key, upload.query, bytes(upload.data), fields)
    return 200, {}, upload.resource

  def _patch(self, call):
    blob = self._get(call.key, call.query)
    blob.fields |= json.loads(call.body)
    blob.metageneration += 1
    return 200, {}, blob.resource(call.key)

  def _delete(self, call):
    self._get(call.key, call.query)
    del self.objects[call.key]
    return 204, {}, b''

  def _rewrite(self, call):
    blob = self._get(call.key, call.query, 'ifSource')
    fields = blob.fields | json.loads(call.body or '{}')
    resource = self._put(f'{call.target["to_bucket"]}/{call.target["to_name"]}', call.query, bytes(blob), fields)
    if call.target['verb'] == 'copyTo':
      return 200, {}, resource
    sizes = dict.fromkeys(('objectSize', 'totalBytesRewritten'), str(len(blob)))
    return 200, {}, {'kind': 'storage#rewriteResponse', 'done': True, **sizes, 'resource': resource}

  def _compose(self, call):
    request = json.loads(call.body)
    sources = [f'{call.target["bucket"]}/{source["name"]}' for source in request['sourceObjects']]
    data = b''.join(self._get(source, {}) for source in sources)
    return 200, {}, self._put(call.key, call.query, data, request.get('destination'))


class _Server(http.server.ThreadingHTTPServer):
  request_queue_size = 128

  def handle_error(self, request, client_address):
    if not isinstance(sys.exception(), OSError):  # a client that disconnected, or does not trust the certificate
      super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers the requests of a connection, and after a CONNECT those inside its TLS."""

  protocol_version = 'HTTP/1.1'
  wbufsize = -1
  disable_nagle_algorithm = True
  scheme = 'http'

  def do_CONNECT(self):
    if self.path.partition(':')[0] not in _HOSTS:
      self.send_error(403, 'This proxy has no other hosts')
      return
    self.wfile.write(b'HTTP/1.1 200 Connection established\r\n\r\n')
    self.wfile.flush()
    self.connection, self.scheme = self.server.tls.wrap_socket(self.connection, server_side=True), 'https'
    self.rfile, self.wfile = self.connection.makefile('rb'), self.connection.makefile('wb')
    self.close_connection = False

  def do_GET(self):
    url = f'{self.scheme}://{self.headers["Host"]}{self.path}'
    status, headers, content = self.server.bucket.answer(self.command, url, self.headers, self._body())
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    has_body = status not in (204, 304)
    if has_body:
      self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if has_body:
      self.wfile.write(content)

  do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

  def _body(self):
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    body = b''  # TensorFlow's uploads are chunked; their Content-Length does not apply
    while size := int(self.rfile.readline(), 16):
      body += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return body

  def handle_expect_100(self):
    super().handle_expect_100()
    self.wfile.flush()
    return True

  def finish(self):
    super().finish()
    self.connection.close()

  def log_message(self, *_):
    pass


def _parse_upload(query, headers, body):
  """Returns kind, metadata and data of the first request of an upload."""
  content_type = headers.get('Content-Type') or 'application/octet-stream'
  if query.get('uploadType') == 'resumable':
    return 'session', json.loads(body or '{}'), b''
  if query.get('uploadType') != 'multipart':
    return 'upload', {'contentType': content_type}, body
  boundary = re.search(r'boundary=["\']?([^"\';]+)', content_type)[1]
  _, fields, data, _ = (b'\r\n' + body).split(f'\r\n--{boundary}'.encode())
  return 'upload', json.loads(fields.split(b'\r\n\r\n', 1)[1]), data.split(b'\r\n\r\n', 1)[1]


def _write_certificate(path):
  """A self-signed certificate for `_HOSTS`, and its key."""
  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'fake bucket')])
  now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
  builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
  builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in _HOSTS]), critical=False)
  builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
  encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
  with open(path, 'wb') as file:
    file.write(builder.sign(key, hashes.SHA256()).public_bytes(encoding))
    file.write(key.private_bytes(encoding, form, serialization.NoEncryption()))


if __name__ == '__main__':
  with FakeBucket() as fake:
    for variable, value in fake.environment.items():
      print(f'export {variable}={value}', flush=True)
    threading.Event().wait()
