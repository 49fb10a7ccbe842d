//! The built-in addons, one file each.
