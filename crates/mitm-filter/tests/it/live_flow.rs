//! Filters on the flows of the model, as the engine asks them.

use mitm_filter::{Case, Filter, parse_with};
use mitm_flow::{Facts, FlowError, Response, test_util::http_flow};

fn filter(text: &str) -> Filter {
    parse_with(text, Case::Insensitive).unwrap()
}

#[test]
fn a_live_flow_matches_as_it_changes() {
    let flow = http_flow();
    for text in [
        "~q",
        "~m get",
        "~u ^http://address:22/path$",
        "~bq content",
        "~src 127",
        "~dst address:22",
        "~hq qvalue$",
    ] {
        assert!(filter(text).matches(&flow), "{text}");
    }
    let headers = [("content-type", "text/css")].into_iter().collect();
    flow.set_response(Some(Response::make(404, "not here", headers).into()));
    flow.set_marked(":red_circle:");
    flow.set_error(Some(FlowError::new("gone")));
    for text in ["~s", "~c 404", "~bs ^not", "~a", "~marker red", "~e", "~t css & !~q"] {
        assert!(filter(text).matches(&flow), "{text}");
    }
}

#[test]
fn any_source_of_facts_will_do() {
    let flow = http_flow();
    let facts: &dyn Facts = &flow;
    assert!(filter("~m get").matches(facts));
}
