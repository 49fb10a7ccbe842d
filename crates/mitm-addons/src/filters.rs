//! What addons with a filter option share.

use std::sync::Arc;

use mitm_filter::{Filter, Known};
use mitm_flow::FlowRef;
use mitm_options::{Opt, Options, OptionsError};
use mitm_proxy::hooks::Direction;

/// Reads a filter option; unset and empty mean that there is no filter.
pub(crate) fn from_option(
    options: &Options,
    option: &Opt<Option<String>>,
) -> Result<Option<Arc<Filter>>, OptionsError> {
    let text = options.get(option).filter(|text| !text.is_empty());
    let parse = |text: String| match mitm_filter::parse(&text) {
        Ok(filter) => Ok(Arc::new(filter)),
        Err(error) => Err(OptionsError::invalid(format!("{}: {error}", option.name()))),
    };
    text.map(parse).transpose()
}

/// True if the flow, as it is now, matches. A flow from a file stays untouched.
pub(crate) fn matches(filter: &Filter, flow: &FlowRef) -> bool {
    filter.matches(flow.untouched_facts().unwrap_or(flow))
}

/// Returns what is known of a flow when the need for the body of a message is asked for. The body of a request may
/// still be on its way when the response comes.
pub(crate) fn known_at_head(direction: Direction) -> Known {
    match direction {
        Direction::Request => Known::REQUEST_HEAD,
        Direction::Response => Known::REQUEST_HEAD | Known::RESPONSE_HEAD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILTER: Opt<Option<String>> = Opt::<Option<String>>::new("x_filter", None, "A filter.");

    #[test]
    fn the_error_names_the_option() {
        let options = Options::new();
        options.register_all(&[&FILTER]);
        assert!(from_option(&options, &FILTER).unwrap().is_none());
        options.set(&FILTER, Some(String::new())).unwrap();
        assert!(from_option(&options, &FILTER).unwrap().is_none());
        options.set(&FILTER, Some("~m get".to_owned())).unwrap();
        assert_eq!(from_option(&options, &FILTER).unwrap().unwrap().text(), "~m get");
        options.set(&FILTER, Some("~bad(".to_owned())).unwrap();
        let error = from_option(&options, &FILTER).unwrap_err().to_string();
        assert!(error.starts_with("x_filter: Invalid filter expression: '~bad('"), "{error}");
    }
}
