//! Registries of options and commands, their types, the command lexer and the configuration file.
