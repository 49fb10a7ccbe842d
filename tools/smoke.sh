#!/bin/bash
# The main job, once, with real programs: curl, mitmdump, nginx, and mitmproxy's own reader.
#
#   tools/smoke.sh PATH/TO/mitmdump [PYTHON WITH MITMPROXY 11.0.2]
#
# A fresh home, an nginx with a plain and a TLS port whose certificate comes from a CA of its own,
# mitmdump -w between curl and nginx; then the bodies, the lines of the dumper, and the flow file as
# read by mitmdump itself and by mitmproxy. Everything is on loopback and ends with the script.
set -euo pipefail

mitmdump=$(realpath "$1")
python=${2:-${MITM_PEER_PYTHON:-}}
work=$(mktemp -d)
pids=()

finish() {
  local status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$status" != 0 ]; then
    echo "smoke: FAILED; what mitmdump said:" >&2
    cat "$work"/dump.log "$work"/dump.err "$work"/reread.log >&2 2>/dev/null || true
  fi
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT

fail() { echo "smoke: $*" >&2; exit 1; }

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

wait_for_port() {
  for _ in $(seq 200); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
    sleep 0.05
  done
  fail "nothing listens on port $1"
}

# --- origin ---
http=$(free_port) https=$(free_port) port=$(free_port)
cd "$work"
mkdir www home
echo "plain words from nginx" > www/index.html
head -c 300000 /dev/urandom > www/large.bin
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=smoke CA' \
  -keyout ca.key -out ca.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=localhost' \
  -keyout server.key -out server.csr 2>/dev/null
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.pem \
  -extfile <(echo 'subjectAltName=DNS:localhost,IP:127.0.0.1') 2>/dev/null
cat > nginx.conf <<NGINX
daemon off;
master_process off;
pid $work/nginx.pid;
error_log $work/nginx.log;
events {}
http {
  access_log off;
  client_body_temp_path $work/t1; proxy_temp_path $work/t2; fastcgi_temp_path $work/t3;
  uwsgi_temp_path $work/t4; scgi_temp_path $work/t5;
  server { listen 127.0.0.1:$http; root $work/www; location /form { return 200 'thanks'; } }
  server {
    listen 127.0.0.1:$https ssl;
    ssl_certificate $work/server.pem;
    ssl_certificate_key $work/server.key;
    root $work/www;
  }
}
NGINX
PATH=$PATH:/usr/sbin nginx -p "$work" -c "$work/nginx.conf" -e "$work/nginx.log" </dev/null &
pids+=($!)
wait_for_port "$http"

# --- record ---
export HOME=$work/home
"$mitmdump" --listen-host 127.0.0.1 -p "$port" -w flows.mitm --upstream-trusted-ca ca.pem \
  >dump.log 2>dump.err </dev/null &
dumper=$!
pids+=("$dumper")
wait_for_port "$port"
curl=(curl -sS --max-time 20 --noproxy '' -x "http://127.0.0.1:$port")
ca=$HOME/.mitmproxy/mitmproxy-ca-cert.pem

"${curl[@]}" -o got.plain "http://127.0.0.1:$http/"
cmp got.plain www/index.html || fail "the body over http differs"
for _ in $(seq 100); do [ -s "$ca" ] && break; sleep 0.05; done
"${curl[@]}" --cacert "$ca" -o got.tls "https://localhost:$https/"
cmp got.tls www/index.html || fail "the body over https differs"
"${curl[@]}" --cacert "$ca" -o got.large "https://localhost:$https/large.bin"
cmp got.large www/large.bin || fail "the large body over https differs"
"${curl[@]}" -d name=value -o got.form "http://127.0.0.1:$http/form"
[ "$(cat got.form)" = thanks ] || fail "the answer to the form differs"
status=$("${curl[@]}" -o got.error -w '%{http_code}' "http://127.0.0.1:$(free_port)/refused")
[ "$status" = 502 ] || fail "a refusing server gave $status instead of 502"

kill -INT "$dumper"
for _ in $(seq 200); do kill -0 "$dumper" 2>/dev/null || break; sleep 0.05; done
if kill -0 "$dumper" 2>/dev/null; then fail "mitmdump does not end after SIGINT"; fi
wait "$dumper" || true

# --- what the user saw ---
for line in "GET http://127.0.0.1:$http/" "GET https://localhost:$https/" \
  "GET https://localhost:$https/large.bin" "POST http://127.0.0.1:$http/form"; do
  [ "$(grep -cF -- "$line" dump.log)" -ge 1 ] || fail "no dumper line for $line"
done
[ "$(grep -c '<< 200 OK' dump.log)" = 4 ] || fail "four lines with << 200 OK were expected"

# --- the file ---
"$mitmdump" -nr flows.mitm </dev/null >reread.log
[ "$(grep -c '<< 200 OK' reread.log)" = 4 ] || fail "mitmdump -nr does not list four flows"
"$mitmdump" -nr flows.mitm '~m post & ~u form' </dev/null >reread.log
[ "$(grep -c '<< 200 OK' reread.log)" = 1 ] || fail "the filter does not select the form"
"$mitmdump" -nr flows.mitm -w post.mitm '~m post' </dev/null >reread.log
if [ -n "$python" ]; then
  "$python" - flows.mitm post.mitm www/large.bin <<'PYTHON'
import sys
from mitmproxy.io import FlowReader

flows = list(FlowReader(open(sys.argv[1], "rb")).stream())
seen = [(f.request.method, f.request.scheme, f.response and f.response.status_code) for f in flows]
assert seen[:4] == [
    ("GET", "http", 200), ("GET", "https", 200), ("GET", "https", 200), ("POST", "http", 200)
], seen
assert flows[2].response.content == open(sys.argv[3], "rb").read()
assert flows[1].server_conn.tls_established and flows[1].client_conn.sni == "localhost"
assert flows[3].request.urlencoded_form["name"] == "value"
assert len(flows) == 5 and flows[4].error, seen
post = list(FlowReader(open(sys.argv[2], "rb")).stream())
assert [f.get_state() for f in post] == [flows[3].get_state()]
PYTHON
else
  echo "smoke: without mitmproxy's reader (no Python given)"
fi
echo "smoke: all is well"
