//! The filter language: parse, print, match.
