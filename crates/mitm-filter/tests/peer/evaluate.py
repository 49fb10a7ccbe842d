"""Evaluate filter expressions with mitmproxy itself, for comparison.

Reads from standard input:   {"expressions": ["~q", ...]}
Writes to standard output:   {"version": "11.0.2",
                              "flows": ["name", ...],
                              "results": [[true, false, ...], null, ...]}

One row per expression, one column per flow; null where mitmproxy refuses the expression. The flows are
those of the file named on the command line or, without one, built here; the Rust tests build the
same ones by hand.

mitmproxy matches all patterns without case since version 12. Where the one at hand is older that
is made up for, so that what is compared is the language of today.
"""

import json
import re
import sys
import warnings

from mitmproxy import flowfilter, io, version
from mitmproxy.http import Headers
from mitmproxy.test import tflow, tutils

warnings.simplefilter("ignore")


def built_in_flows():
    get = tflow.tflow()

    done = tflow.tflow(resp=True)
    done.request.method = "POST"
    done.request.headers = Headers(
        [(b"Host", b"example.com:8080"), (b"Content-Type", b"application/json"), (b"X-Dup", b"one"), (b"x-dup", b"two")]
    )
    done.request.content = b'{"caf\xc3\xa9": 1}\n'
    done.request.path = "/a/b.php?q=1&r=%20"
    done.response.status_code = 404
    done.response.headers["Content-Type"] = "text/html; charset=utf-8"
    done.marked = ":grapes:"
    done.comment = "first line\nsecond LINE"
    done.metadata = {"key": "value", "n": 7, "f": 1.5, "none": None, "list": ["a", b"b"]}

    packed = tflow.tflow(resp=True)
    packed.request.host = "10.0.0.1"
    packed.response.headers["content-encoding"] = "gzip"
    packed.response.headers["content-type"] = "image/png"
    packed.response.content = b"compressed MESSAGE \x00\xff\n"
    packed.is_replay = "request"

    failed = tflow.tflow(err=True)
    failed.request.content = None
    failed.is_replay = "response"
    failed.server_conn.address = None
    failed.marked = ":default:"

    return {
        "get": get,
        "done": done,
        "packed": packed,
        "failed": failed,
        "websocket": tflow.twebsocketflow(),
        "tcp": tflow.ttcpflow(),
        "tcp_err": tflow.ttcpflow(err=True),
        "udp": tflow.tudpflow(),
        "dns": tflow.tdnsflow(),
        "dns_answered": tflow.tdnsflow(resp=tutils.tdnsresp()),
    }


def main():
    for operator in flowfilter.filter_rex:
        operator.flags |= re.IGNORECASE
    if len(sys.argv) > 1:
        with open(sys.argv[1], "rb") as file:
            flows = [(flow.id, flow) for flow in io.FlowReader(file).stream()]
    else:
        flows = list(built_in_flows().items())

    results = []
    for expression in json.load(sys.stdin)["expressions"]:
        try:
            compiled = flowfilter.parse(expression)
        except ValueError:
            results.append(None)
        else:
            results.append([bool(compiled(flow)) for _, flow in flows])
    json.dump({"version": version.VERSION, "flows": [name for name, _ in flows], "results": results}, sys.stdout)


if __name__ == "__main__":
    main()
