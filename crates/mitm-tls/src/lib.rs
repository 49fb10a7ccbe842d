//! The certificate authority, leaf certificates, key logs, TLS configurations.
