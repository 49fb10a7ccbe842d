"""Peers of a past age, by tlslite-ng.

    old_tls.py client PROXY HOST:PORT SNI VERSION KEY_EXCHANGE CIPHER
    old_tls.py server CERTIFICATE KEY VERSION KEY_EXCHANGE CIPHER

The client asks for / through the proxy and prints what was agreed on, and the answer. The server prints its
port and answers each connection with what was agreed on with that one, until it is killed.
"""

import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey

VERSIONS = {"SSL3": (3, 0), "TLS1": (3, 1), "TLS1_1": (3, 2), "TLS1_2": (3, 3)}


def settings(version, key_exchange, cipher):
    chosen = HandshakeSettings()
    chosen.minVersion = chosen.maxVersion = VERSIONS[version]
    chosen.versions = [VERSIONS[version]]
    chosen.keyExchangeNames = [key_exchange]
    chosen.cipherNames = [cipher]
    chosen.macNames = ["sha", "sha256", "aead", "md5"]
    # These came with TLS.
    chosen.useExtendedMasterSecret = chosen.useEncryptThenMAC = version != "SSL3"
    return chosen


def agreed(connection):
    session = connection.session
    return f"{connection.getVersionName()} {connection.getCipherName()} {session.cipherSuite:#06x}"


def read_head(read):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = read(4096)
        if not piece:
            break
        head += piece
    return bytes(head)


def client(proxy, target, sni, *parameters):
    host, port = proxy.rsplit(":", 1)
    tcp = socket.create_connection((host, int(port)), timeout=50)
    tcp.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = read_head(tcp.recv)
    assert head.startswith(b"HTTP/1.1 200"), head
    connection = TLSConnection(tcp)
    connection.ignoreAbruptClose = True
    connection.handshakeClientCert(settings=settings(*parameters), serverName=sni)
    print(agreed(connection))
    request = f"GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode())
    answer = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            break
        answer += bytes(piece)
    print(answer.decode())


def server(certificate, key, *parameters):
    chain = X509CertChain()
    with open(certificate) as file:
        chain.parsePemList(file.read())
    with open(key) as file:
        private = parsePEMKey(file.read(), private=True)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        tcp, _ = listener.accept()
        tcp.settimeout(50)
        connection = TLSConnection(tcp)
        try:
            connection.handshakeServer(
                certChain=chain, privateKey=private, settings=settings(*parameters)
            )
            read_head(connection.recv)
            body = agreed(connection)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall((head + body).encode())
            connection.close()
        except Exception as error:
            print(repr(error), flush=True)
        finally:
            tcp.close()


if __name__ == "__main__":
    {"client": client, "server": server}[sys.argv[1]](*sys.argv[2:])
