//! [`OpensslAcceptor`]: our side of a handshake with a client.

use std::{io, path::PathBuf, sync::Arc};

use openssl::{
    dh::Dh,
    ex_data::Index,
    ssl::{AlpnError, Ssl, SslContext, SslOptions, SslVerifyMode},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Lazy, OpensslStream, context,
    error::{setup_error, words},
    offer, x509,
};
use crate::{ca::DHPARAM, options::TlsOptions, store::Leaf};

/// The context that connections of one set of options share.
pub(crate) struct Server {
    options: TlsOptions,
    dhparam: Option<PathBuf>,
    context: Lazy<Shared>,
}

struct Shared {
    context: SslContext,
    /// Where a session keeps the protocol that was chosen for it.
    alpn: Index<Ssl, Box<[u8]>>,
}

/// What a client is answered with: one certificate, and one protocol or none.
#[derive(Clone)]
pub struct OpensslAcceptor {
    shared: Arc<Shared>,
    leaf: Arc<Leaf>,
    alpn: Option<Box<[u8]>>,
}

impl Server {
    pub(crate) fn new(options: &TlsOptions, dhparam: Option<PathBuf>) -> Self {
        Self { options: options.clone(), dhparam, context: Lazy::new() }
    }

    /// Sets the library up, and makes sure that the options leave it something.
    pub(crate) fn check(&self) -> Result<(), String> {
        offer(&self.options)?;
        self.shared().map(|_| ())
    }

    pub(crate) fn acceptor(
        &self,
        leaf: &Arc<Leaf>,
        alpn: Option<&[u8]>,
    ) -> Result<OpensslAcceptor, String> {
        let shared = self.shared()?;
        Ok(OpensslAcceptor { shared, leaf: Arc::clone(leaf), alpn: alpn.map(Into::into) })
    }

    fn shared(&self) -> Result<Arc<Shared>, String> {
        self.context.get_or_init(|| self.make().map(Arc::new)).clone()
    }

    fn make(&self) -> Result<Shared, String> {
        let mut context = context(&self.options)?;
        // A client that renegotiates at will keeps us signing.
        context.set_options(SslOptions::NO_RENEGOTIATION);
        context.set_tmp_dh(&*self.dh()?).map_err(|error| words(&error))?;
        // Each session is new: a ticket would only be memory.
        context.set_num_tickets(0).map_err(|error| words(&error))?;
        if self.options.request_client_cert {
            // Any certificate is taken, and none.
            context.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
        }
        let alpn = Ssl::new_ex_index::<Box<[u8]>>().map_err(|error| words(&error))?;
        context.set_alpn_select_callback(move |session, offered| {
            let chosen = session.ex_data(alpn).ok_or(AlpnError::NOACK)?;
            find_protocol(offered, chosen).ok_or(AlpnError::NOACK)
        });
        Ok(Shared { context: context.build(), alpn })
    }

    fn dh(&self) -> Result<Dh<openssl::pkey::Params>, String> {
        if let Some(path) = &self.dhparam {
            let given = std::fs::read(path)
                .map_err(|error| error.to_string())
                .and_then(|pem| Dh::params_from_pem(&pem).map_err(|error| words(&error)));
            match given {
                Ok(dh) => return Ok(dh),
                Err(error) => tracing::warn!("{} is not used: {error}", path.display()),
            }
        }
        Dh::params_from_pem(DHPARAM.as_bytes()).map_err(|error| words(&error))
    }
}

impl OpensslAcceptor {
    /// Answers a client: nothing of what it sent has been read.
    pub async fn accept<S>(&self, io: S) -> io::Result<OpensslStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let session = self.session().map_err(|error| setup_error(&error))?;
        let mut stream = OpensslStream::new(session, io)?;
        stream.handshake().await?;
        Ok(stream)
    }

    fn session(&self) -> Result<Ssl, openssl::error::ErrorStack> {
        let mut session = Ssl::new(&self.shared.context)?;
        session.set_certificate(&*x509(&self.leaf.cert)?)?;
        session.set_private_key(self.leaf.key.openssl()?)?;
        for cert in &self.leaf.chain {
            session.add_chain_cert(x509(cert)?)?;
        }
        if let Some(alpn) = &self.alpn {
            session.set_ex_data(self.shared.alpn, alpn.clone());
        }
        session.set_accept_state();
        Ok(session)
    }
}

impl std::fmt::Debug for OpensslAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpensslAcceptor").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Finds a protocol in what a client offers: names with their length in front.
fn find_protocol<'a>(mut offered: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    while let Some((length, rest)) = offered.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        if name == wanted {
            return Some(name);
        }
        offered = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_found_whole() {
        assert_eq!(find_protocol(b"\x02h2\x08http/1.1", b"http/1.1"), Some(&b"http/1.1"[..]));
        assert_eq!(find_protocol(b"\x02h2", b"h"), None);
        assert_eq!(find_protocol(b"\x09h2", b"h2"), None);
    }
}
