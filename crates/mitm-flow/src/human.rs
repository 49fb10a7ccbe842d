//! Sizes, durations and times for people.
