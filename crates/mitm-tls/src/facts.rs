//! What a finished handshake revealed, as flows record it.

use bytes::Bytes;
use mitm_flow::{
    Cert,
    connection::{TlsFacts, TlsVersion},
};
use rustls::{CommonState, ProtocolVersion};

use crate::suites::cipher_name;

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
