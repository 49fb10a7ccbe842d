//! Tests over whole messages.

mod hellos;
mod properties;
mod smuggling;
