"""A server that asks for a client certificate once it has seen the request.

    asking_late.py VERSION CERTIFICATE KEY AUTHORITY

With TLS1_3 by authentication after the handshake, with TLS1_2 by renegotiation (pyOpenSSL). It prints its port
and answers each connection with the common name it was shown.
"""

import socket
import ssl
import sys

version, certificate, key, authority = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)


def read_head(read):
    head = b""
    while b"\r\n\r\n" not in head:
        head += read(4096) or b"\r\n\r\n"
    return head


def answer(name):
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\nConnection: close\r\n\r\n"
    return (head + name).encode()


def tls13(tcp):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.post_handshake_auth = True
    with context.wrap_socket(tcp, server_side=True) as connection:
        read_head(connection.recv)
        assert not connection.getpeercert()
        connection.verify_client_post_handshake()
        # Writing sends the question, reading brings the answer to it.
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        connection.setblocking(False)
        while not connection.getpeercert():
            try:
                connection.recv(1)
            except ssl.SSLWantReadError:
                pass
        connection.setblocking(True)
        subject = dict(pair[0] for pair in connection.getpeercert()["subject"])
        connection.sendall(answer(subject["commonName"]))


def tls12(tcp):
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate_file(certificate)
    context.use_privatekey_file(key)
    context.load_verify_locations(authority)
    # A resumed session would not be asked again.
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    connection = SSL.Connection(context, tcp)
    connection.set_accept_state()
    connection.do_handshake()
    read_head(connection.recv)
    assert connection.get_peer_certificate() is None
    connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    connection.renegotiate()
    connection.do_handshake()
    while connection.renegotiate_pending() or connection.get_peer_certificate() is None:
        try:
            connection.setblocking(False)
            connection.recv(1)
        except SSL.WantReadError:
            pass
        finally:
            connection.setblocking(True)
    connection.sendall(answer(connection.get_peer_certificate().get_subject().CN))
    connection.shutdown()


while True:
    tcp, _ = listener.accept()
    try:
        {"TLS1_3": tls13, "TLS1_2": tls12}[version](tcp)
    except Exception as error:
        print(repr(error), flush=True)
    finally:
        tcp.close()
