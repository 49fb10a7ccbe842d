//! The grammar of `--set` and of the `set` command: `name`, `name=value`, repeated for lists.

use indexmap::IndexMap;

use crate::{OptionDecl, OptionType, OptionValue, OptionsError, text};

/// The values given to each name, in the order of first mention. `name` alone gives no value.
pub(crate) type Specs = IndexMap<String, Vec<String>>;

/// Sorts specs by name. Only the first `=` splits, so values may have more of them.
pub(crate) fn group<S: AsRef<str>>(specs: &[S]) -> Specs {
    let mut grouped = Specs::new();
    for spec in specs {
        let spec = spec.as_ref();
        match spec.split_once('=') {
            Some((name, value)) => {
                grouped.entry(name.to_owned()).or_default().push(value.to_owned());
            }
            None => {
                grouped.entry(spec.to_owned()).or_default();
            }
        }
    }
    grouped
}

/// Reads the values given to an option. `current` is what `toggle` flips.
pub(crate) fn parse(
    decl: &OptionDecl,
    values: &[String],
    current: &OptionValue,
) -> Result<OptionValue, OptionsError> {
    let value = if decl.ty() == OptionType::Sequence {
        OptionValue::Strs(values.to_vec())
    } else {
        match values {
            [] => parse_one(decl, None, current)?,
            [value] => parse_one(decl, Some(value), current)?,
            _ => {
                let values = values.iter().map(|value| format!("'{value}'")).collect();
                return Err(OptionsError::Multiple { name: decl.name().to_string(), values });
            }
        }
    };
    decl.check(&value)?;
    Ok(value)
}

fn parse_one(
    decl: &OptionDecl,
    value: Option<&str>,
    current: &OptionValue,
) -> Result<OptionValue, OptionsError> {
    let failed = |reason: String| OptionsError::Parse { name: decl.name().to_string(), reason };
    let required = || OptionsError::Required { name: decl.name().to_string(), expected: decl.ty() };
    let int = |value: &str| {
        let number = text::parse_int(value);
        number.map(OptionValue::Int).ok_or_else(|| failed(format!("not an integer: {value}")))
    };
    match (decl.ty(), value) {
        (OptionType::Str | OptionType::OptionalStr, Some(value)) => Ok(value.into()),
        (OptionType::Int, None | Some("")) | (OptionType::Str, None) => Err(required()),
        (OptionType::OptionalInt, None | Some("")) | (OptionType::OptionalStr, None) => {
            Ok(OptionValue::None)
        }
        (OptionType::Int | OptionType::OptionalInt, Some(value)) => int(value),
        (OptionType::Bool, None | Some("" | "true")) => Ok(true.into()),
        (OptionType::Bool, Some("false")) => Ok(false.into()),
        (OptionType::Bool, Some("toggle")) => Ok((*current != OptionValue::Bool(true)).into()),
        (OptionType::Bool, Some(value)) => Err(failed(format!(
            "'{value}' is none of \"true\", \"false\", \"toggle\", and true may also be given as \
             {} without a value",
            decl.name()
        ))),
        (OptionType::Sequence, value) => {
            Ok(OptionValue::Strs(value.map(str::to_owned).into_iter().collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decl(ty: OptionType) -> OptionDecl {
        let default = match ty {
            OptionType::Bool => true.into(),
            OptionType::Str => "".into(),
            OptionType::Int => 0.into(),
            OptionType::OptionalStr | OptionType::OptionalInt => OptionValue::None,
            OptionType::Sequence => OptionValue::Strs(vec![]),
        };
        OptionDecl::new("n", ty, default, "", vec![]).unwrap()
    }

    fn set(ty: OptionType, specs: &[&str]) -> Result<OptionValue, String> {
        let grouped = group(specs);
        assert_eq!(grouped.len(), 1);
        let decl = decl(ty);
        parse(&decl, &grouped["n"], decl.default()).map_err(|error| error.to_string())
    }

    const TYPES: [OptionType; 6] = [
        OptionType::Bool,
        OptionType::Str,
        OptionType::OptionalStr,
        OptionType::Int,
        OptionType::OptionalInt,
        OptionType::Sequence,
    ];

    #[test]
    fn every_form_for_every_type() {
        let strs = |list: &[&str]| OptionValue::Strs(list.iter().map(|&s| s.into()).collect());
        // Per type: `n`, `n=`, `n=1`; None stands for an error.
        let table: [[Option<OptionValue>; 3]; 6] = [
            [Some(true.into()), Some(true.into()), None],
            [None, Some("".into()), Some("1".into())],
            [Some(OptionValue::None), Some("".into()), Some("1".into())],
            [None, None, Some(1.into())],
            [Some(OptionValue::None), Some(OptionValue::None), Some(1.into())],
            [Some(strs(&[])), Some(strs(&[""])), Some(strs(&["1"]))],
        ];
        for (ty, row) in TYPES.into_iter().zip(table) {
            for (spec, expected) in ["n", "n=", "n=1"].into_iter().zip(row) {
                assert_eq!(set(ty, &[spec]).ok(), expected, "{ty} {spec}");
            }
        }
    }

    #[test]
    fn bools_take_three_words() {
        assert_eq!(set(OptionType::Bool, &["n=false"]), Ok(false.into()));
        assert_eq!(set(OptionType::Bool, &["n=toggle"]), Ok(false.into()));
        let error = set(OptionType::Bool, &["n=True"]).unwrap_err();
        assert!(error.starts_with("Failed to parse option n: 'True' is none of"), "{error}");
    }

    #[test]
    fn lists_are_built_by_repetition() {
        let list = OptionValue::Strs(vec!["a=b".into(), "c".into()]);
        assert_eq!(set(OptionType::Sequence, &["n=a=b", "n=c"]), Ok(list));
        assert_eq!(
            set(OptionType::Str, &["n=a", "n=b"]).unwrap_err(),
            "Received multiple values for n: ['a', 'b']"
        );
    }

    #[test]
    fn errors_name_the_option_and_what_is_valid() {
        assert_eq!(
            set(OptionType::Int, &["n=x"]).unwrap_err(),
            "Failed to parse option n: not an integer: x"
        );
        assert!(set(OptionType::Int, &["n"]).unwrap_err().starts_with("Option is required: n"));
    }

    proptest! {
        #[test]
        fn any_spec_is_read_or_refused(specs in prop::collection::vec(".*", 0..4)) {
            for values in group(&specs).values() {
                for ty in TYPES {
                    let decl = decl(ty);
                    if let Ok(value) = parse(&decl, values, decl.default()) {
                        prop_assert!(ty.accepts(&value));
                    }
                }
            }
        }
    }
}
