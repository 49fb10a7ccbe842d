//! Reason phrases of status codes.

/// Returns the standard reason phrase of a status code.
pub fn reason(_code: u16) -> Option<&'static str> {
    None
}
