//! URL parts and authorities.
