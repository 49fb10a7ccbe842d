//! What addons ask about the mode that a client came in by.

use mitm_flow::{Client, Shared};

/// True if the client came in by the mode called `name`, in lower case.
pub(crate) fn is(client: &Shared<Client>, name: &str) -> bool {
    client.with(|client| {
        let spec = client.proxy_mode.split([':', '@']).next().unwrap_or_default();
        spec.eq_ignore_ascii_case(name)
    })
}
