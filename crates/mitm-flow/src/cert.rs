//! [`Cert`]: an X.509 certificate and what it says.

use std::{fmt, sync::Arc};

use bytes::Bytes;

/// A certificate, kept as DER. Equal if the bytes are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cert {
    der: Bytes,
}

impl Cert {
    pub fn from_der(der: impl Into<Bytes>) -> Self {
        Self { der: der.into() }
    }

    pub fn der(&self) -> &Bytes {
        &self.der
    }
}

impl fmt::Debug for Cert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cert({} bytes)", self.der.len())
    }
}

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Cert>>();
};
