//! Declarations: [`Opt`] for options known when the program is built, [`OptionDecl`] for any.
//!
//! ```
//! use mitm_options::{Declare, Opt, Options};
//!
//! static ANTICACHE: Opt<bool> =
//!     Opt::new("anticache", false, "Remove the headers that let a server answer 304.");
//! static ORDER: Opt<String> =
//!     Opt::<String>::new("order", "time", "Sort key.").choices(&["time", "url"]);
//!
//! let options = Options::new();
//! options.register_all(&[&ANTICACHE, &ORDER]);
//! assert!(!options.get(&ANTICACHE));
//! ```

use std::{borrow::Cow, sync::Arc};

use crate::{OptionType, OptionValue, OptionsError, text};

/// A Rust type that stands for one of the option types.
pub trait OptType: Sized + Send + Sync + 'static {
    /// How a default is written in a `static`.
    type Const: Copy + Send + Sync + 'static;

    /// The option type this stands for.
    const TYPE: OptionType;

    /// Makes a value of a default.
    fn from_const(value: Self::Const) -> Self;

    /// Reads a value; `None` if it is of another type.
    fn from_value(value: &OptionValue) -> Option<Self>;

    /// Makes an option value.
    fn into_value(self) -> OptionValue;
}

macro_rules! opt_type {
    ($type:ty, $const:ty, $variant:ident, |$c:ident| $make:expr, |$v:ident| $pattern:pat => $read:expr) => {
        impl OptType for $type {
            type Const = $const;
            const TYPE: OptionType = OptionType::$variant;

            fn from_const($c: Self::Const) -> Self {
                $make
            }

            fn from_value($v: &OptionValue) -> Option<Self> {
                match $v {
                    $pattern => Some($read),
                    _ => None,
                }
            }

            fn into_value(self) -> OptionValue {
                self.into()
            }
        }
    };
}

opt_type!(bool, bool, Bool, |c| c, |v| OptionValue::Bool(b) => *b);
opt_type!(i64, i64, Int, |c| c, |v| OptionValue::Int(i) => *i);
opt_type!(String, &'static str, Str, |c| c.to_owned(), |v| OptionValue::Str(s) => s.clone());
opt_type!(
    Vec<String>,
    &'static [&'static str],
    Sequence,
    |c| c.iter().map(|&s| s.to_owned()).collect(),
    |v| OptionValue::Strs(list) => list.clone()
);

impl OptType for Option<i64> {
    type Const = Option<i64>;
    const TYPE: OptionType = OptionType::OptionalInt;

    fn from_const(value: Self::Const) -> Self {
        value
    }

    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::None => Some(None),
            OptionValue::Int(i) => Some(Some(*i)),
            _ => None,
        }
    }

    fn into_value(self) -> OptionValue {
        self.into()
    }
}

impl OptType for Option<String> {
    type Const = Option<&'static str>;
    const TYPE: OptionType = OptionType::OptionalStr;

    fn from_const(value: Self::Const) -> Self {
        value.map(str::to_owned)
    }

    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::None => Some(None),
            OptionValue::Str(s) => Some(Some(s.clone())),
            _ => None,
        }
    }

    fn into_value(self) -> OptionValue {
        self.into()
    }
}

/// The declaration of an option and the key to read it with: a `static` beside the code that uses
/// the option.
#[derive(Clone, Copy, Debug)]
pub struct Opt<T: OptType> {
    name: &'static str,
    default: T::Const,
    help: &'static str,
    choices: &'static [&'static str],
}

impl<T: OptType> Opt<T> {
    /// Declares an option. `help` is shown to users: whole sentences, with the unit of numbers.
    pub const fn new(name: &'static str, default: T::Const, help: &'static str) -> Self {
        Self { name, default, help, choices: &[] }
    }

    /// Restricts the values (of a list: the items) to `choices`.
    #[must_use]
    pub const fn choices(mut self, choices: &'static [&'static str]) -> Self {
        self.choices = choices;
        self
    }

    /// Returns the name of the option.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the default.
    pub fn default(&self) -> T {
        T::from_const(self.default)
    }

    /// Pairs the name with a value, as [`Options::update`](crate::Options::update) takes it.
    pub fn to(&self, value: T) -> (String, OptionValue) {
        (self.name.to_owned(), value.into_value())
    }
}

/// What can be registered: an [`Opt`] of any type, or an [`OptionDecl`].
pub trait Declare: Send + Sync {
    fn decl(&self) -> OptionDecl;
}

impl<T: OptType> Declare for Opt<T> {
    fn decl(&self) -> OptionDecl {
        OptionDecl {
            name: Arc::from(self.name),
            ty: T::TYPE,
            default: self.default().into_value(),
            help: Cow::Borrowed(self.help),
            choices: self.choices.iter().map(|&choice| Cow::Borrowed(choice)).collect(),
        }
    }
}

impl Declare for OptionDecl {
    fn decl(&self) -> OptionDecl {
        self.clone()
    }
}

/// The declaration of an option, with its type as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionDecl {
    name: Arc<str>,
    ty: OptionType,
    default: OptionValue,
    help: Cow<'static, str>,
    choices: Vec<Cow<'static, str>>,
}

impl OptionDecl {
    /// Declares an option whose parts are known at run time only, as those of a script.
    ///
    /// White space in `help` is collapsed.
    ///
    /// # Errors
    ///
    /// If the name is empty or has a `=` or white space in it, or the default is not of type `ty`
    /// or none of the choices.
    pub fn new(
        name: &str,
        ty: OptionType,
        default: OptionValue,
        help: &str,
        choices: Vec<String>,
    ) -> Result<Self, OptionsError> {
        if name.is_empty() || name.contains(|c: char| c == '=' || c.is_whitespace()) {
            return Err(OptionsError::Name(name.to_owned()));
        }
        let decl = Self {
            name: Arc::from(name),
            ty,
            default,
            help: Cow::Owned(help.split_whitespace().collect::<Vec<_>>().join(" ")),
            choices: choices.into_iter().map(Cow::Owned).collect(),
        };
        decl.check(&decl.default)?;
        Ok(decl)
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn ty(&self) -> OptionType {
        self.ty
    }

    pub fn default(&self) -> &OptionValue {
        &self.default
    }

    pub fn help(&self) -> &str {
        &self.help
    }

    /// Returns the valid values; none means that any of the type is.
    pub fn choices(&self) -> &[Cow<'static, str>] {
        &self.choices
    }

    /// Checks that the option may have `value`.
    pub fn check(&self, value: &OptionValue) -> Result<(), OptionsError> {
        if !self.ty.accepts(value) {
            return Err(self.type_error(value.kind()));
        }
        let wrong = |item: &&String| !self.choices.iter().any(|choice| choice == *item);
        let wrong = match value {
            _ if self.choices.is_empty() => None,
            OptionValue::Str(s) => Some(s).filter(wrong),
            OptionValue::Strs(list) => list.iter().find(wrong),
            _ => None,
        };
        match wrong {
            None => Ok(()),
            Some(value) => Err(OptionsError::Choice {
                name: self.name.to_string(),
                value: value.clone(),
                valid: text::quoted_list(&self.choices),
            }),
        }
    }

    pub(crate) fn type_error(&self, got: &str) -> OptionsError {
        OptionsError::Type { name: self.name.to_string(), expected: self.ty, got: got.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static PALETTE: Opt<Option<String>> =
        Opt::<Option<String>>::new("palette", None, "Colours.").choices(&["dark", "light"]);
    static COLUMNS: Opt<Vec<String>> =
        Opt::<Vec<String>>::new("columns", &["path"], "Columns.").choices(&["path", "size"]);

    #[test]
    fn choices_are_enforced_on_values_and_items() {
        let decl = PALETTE.decl();
        assert_eq!(decl.check(&OptionValue::None), Ok(()));
        assert_eq!(decl.check(&"dark".into()), Ok(()));
        let error = decl.check(&"grey".into()).unwrap_err().to_string();
        assert_eq!(error, "invalid value 'grey' for palette: valid values are 'dark', 'light'");
        let decl = COLUMNS.decl();
        assert_eq!(decl.check(&vec!["size".to_owned()].into()), Ok(()));
        assert!(decl.check(&vec!["size".to_owned(), "x".to_owned()].into()).is_err());
    }

    #[test]
    fn wrong_types_name_both_types() {
        let error = COLUMNS.decl().check(&"path".into()).unwrap_err().to_string();
        assert_eq!(error, "Expected sequence of str for columns, but got str.");
    }

    #[test]
    fn dynamic_declarations_are_checked() {
        let new = |name, default| OptionDecl::new(name, OptionType::Int, default, "a\n  b", vec![]);
        assert_eq!(new("x", 1.into()).unwrap().help(), "a b");
        assert!(new("x", true.into()).is_err());
        assert!(new("x=", 1.into()).is_err());
        assert!(new("", 1.into()).is_err());
    }
}
