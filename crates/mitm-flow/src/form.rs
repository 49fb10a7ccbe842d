//! Query strings and URL-encoded forms.
