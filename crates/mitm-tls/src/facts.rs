//! What a finished handshake revealed, as flows record it.

use bytes::Bytes;
use mitm_flow::{
    Cert,
    connection::{TlsFacts, TlsVersion},
};
use rustls::{CommonState, ProtocolVersion};

use crate::{ossl::OpensslStream, suites::cipher_name};

/// Reads the facts of a connection towards a client: its certificate if it showed one, and from its
/// hello the name it asked for, the protocols and the cipher suites it offered.
pub fn client_facts(
    connection: &CommonState,
    sni: Option<&str>,
    offers: &[Bytes],
    cipher_suites: &[u16],
) -> TlsFacts {
    TlsFacts {
        alpn_offers: offers.into(),
        cipher_list: cipher_suites.iter().map(|suite| cipher_name(*suite)).collect(),
        sni: sni.map(Into::into),
        ..facts(connection)
    }
}

/// Reads the facts of a connection towards a server. `sni` and `offers` are what was asked for.
pub fn server_facts(connection: &CommonState, sni: Option<&str>, offers: &[Bytes]) -> TlsFacts {
    TlsFacts { alpn_offers: offers.into(), sni: sni.map(Into::into), ..facts(connection) }
}

/// As [`client_facts`], of a connection over OpenSSL.
pub fn openssl_client_facts<S>(
    stream: &OpensslStream<S>,
    sni: Option<&str>,
    offers: &[Bytes],
    cipher_suites: &[u16],
) -> TlsFacts {
    TlsFacts {
        alpn_offers: offers.into(),
        cipher_list: cipher_suites.iter().map(|suite| cipher_name(*suite)).collect(),
        sni: sni.map(Into::into),
        ..openssl_facts(stream)
    }
}

/// As [`server_facts`], of a connection over OpenSSL.
pub fn openssl_server_facts<S>(
    stream: &OpensslStream<S>,
    sni: Option<&str>,
    offers: &[Bytes],
) -> TlsFacts {
    TlsFacts { alpn_offers: offers.into(), sni: sni.map(Into::into), ..openssl_facts(stream) }
}

fn openssl_facts<S>(stream: &OpensslStream<S>) -> TlsFacts {
    let ssl = stream.ssl();
    // A server finds the client's own certificate apart from those above it.
    let own = ssl.is_server().then(|| ssl.peer_certificate()).flatten();
    let own = own.as_ref().map(AsRef::as_ref);
    let chain = own.into_iter().chain(ssl.peer_cert_chain().into_iter().flatten());
    TlsFacts {
        certificate_list: chain.filter_map(|cert| cert.to_der().ok()).map(Cert::from_der).collect(),
        alpn: Some(ssl.selected_alpn_protocol().map(Bytes::copy_from_slice).unwrap_or_default()),
        cipher: ssl
            .current_cipher()
            .map(|cipher| cipher_name(u16::from_be_bytes(cipher.protocol_id()))),
        version: match ssl.version_str() {
            "SSLv3" => Some(TlsVersion::Ssl3),
            "TLSv1" => Some(TlsVersion::Tls1),
            "TLSv1.1" => Some(TlsVersion::Tls1_1),
            "TLSv1.2" => Some(TlsVersion::Tls1_2),
            "TLSv1.3" => Some(TlsVersion::Tls1_3),
            _ => None,
        },
        timestamp_setup: Some(mitm_flow::now()),
        ..TlsFacts::default()
    }
}

fn facts(connection: &CommonState) -> TlsFacts {
    let chain = connection.peer_certificates().unwrap_or_default();
    TlsFacts {
        certificate_list: chain.iter().map(|cert| Cert::from_der(cert.to_vec())).collect(),
        // Agreed on nothing is not the same as not known.
        alpn: Some(connection.alpn_protocol().map(Bytes::copy_from_slice).unwrap_or_default()),
        cipher: connection.negotiated_cipher_suite().map(|suite| cipher_name(suite.suite().into())),
        version: connection.protocol_version().and_then(version),
        timestamp_setup: Some(mitm_flow::now()),
        ..TlsFacts::default()
    }
}

fn version(version: ProtocolVersion) -> Option<TlsVersion> {
    match version {
        ProtocolVersion::TLSv1_2 => Some(TlsVersion::Tls1_2),
        ProtocolVersion::TLSv1_3 => Some(TlsVersion::Tls1_3),
        _ => None,
    }
}
