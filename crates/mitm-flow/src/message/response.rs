//! What is computed from a response: cookies, and dates for replays.

use bytes::Bytes;

use super::{Message, Response};
use crate::{
    Body, Headers, Stream,
    cookies::{self, SetCookie},
    date, status,
};

impl Response {
    /// Builds an HTTP/1.1 response with the standard reason phrase and a `content-length`, timestamps now. The
    /// content is encoded if `headers` have a `content-encoding`.
    pub fn make(status_code: u16, content: impl Into<Bytes>, headers: Headers) -> Self {
        let now = crate::now();
        let mut response = Self {
            http_version: Bytes::from_static(b"HTTP/1.1"),
            status_code,
            reason: status::reason(status_code).unwrap_or("").into(),
            headers,
            body: Body::empty(),
            trailers: None,
            timestamp_start: now,
            timestamp_end: Some(now),
            stream: Stream::No,
        };
        response.set_content(Some(content.into()));
        response
    }

    /// Returns the cookies of all `set-cookie` fields.
    pub fn cookies(&self) -> Vec<SetCookie> {
        self.headers
            .get_all("set-cookie")
            .flat_map(|value| cookies::parse_set_cookie_header(value))
            .collect()
    }

    /// Replaces the cookies, in one `set-cookie` field each.
    pub fn set_cookies(&mut self, cookies: &[SetCookie]) {
        let values = cookies
            .iter()
            .map(|cookie| cookies::format_set_cookie_header(std::slice::from_ref(cookie)).into());
        self.headers.set_all("set-cookie", values);
    }

    /// Moves the dates of headers and cookies by the time that has passed since the response came, so that a replayed
    /// one is as fresh at `now` as it was then. What is no date stays.
    pub fn refresh(&mut self, now: f64) {
        let delta = now - self.timestamp_start;
        for name in ["date", "expires", "last-modified"] {
            let values: Vec<Bytes> = self
                .headers
                .get_all(name)
                .map(|value| match std::str::from_utf8(value).ok().and_then(date::parse) {
                    Some(seconds) => date::format(seconds as f64 + delta).into(),
                    None => value.clone(),
                })
                .collect();
            if !values.is_empty() {
                self.headers.set_all(name, values);
            }
        }
        let values: Vec<Bytes> = self
            .headers
            .get_all("set-cookie")
            .map(|value| {
                let refreshed = cookies::refresh_set_cookie_header(value, delta);
                refreshed.map_or_else(|| value.clone(), Bytes::from)
            })
            .collect();
        if !values.is_empty() {
            self.headers.set_all("set-cookie", values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_responses_are_complete() {
        let response = Response::make(418, "abc", Headers::new());
        assert_eq!(response.reason, "I'm a teapot");
        assert_eq!(response.headers.get("content-length").unwrap(), "3");
        let coded =
            Response::make(200, "abc", [("content-encoding", "gzip")].into_iter().collect());
        assert_eq!(coded.content(9).unwrap().unwrap(), "abc");
        assert_eq!(Response::make(299, "", Headers::new()).reason, "");
    }

    #[test]
    fn dates_move_together() {
        let fields = [
            ("Date", "Wed, 09 Jun 2021 10:18:14 GMT"),
            ("expires", "0"),
            ("last-modified", "Wednesday, 09-Jun-21 10:18:14 GMT"),
            ("set-cookie", "a=b; expires=Wed, 09 Jun 2021 10:18:14 GMT"),
            ("set-cookie", "x"),
        ];
        let mut response = Response::make(200, "", fields.into_iter().collect());
        response.timestamp_start = 1000.0;
        response.refresh(4600.0);
        let fields = [
            ("Date", "Wed, 09 Jun 2021 11:18:14 GMT"),
            ("expires", "0"),
            ("last-modified", "Wed, 09 Jun 2021 11:18:14 GMT"),
            ("set-cookie", "a=b; expires=Wed, 09 Jun 2021 11:18:14 GMT"),
            ("set-cookie", "x"),
            ("content-length", "0"),
        ];
        assert_eq!(response.headers, fields.into_iter().collect());
    }

    #[test]
    fn each_cookie_has_a_field() {
        let mut response =
            Response::make(200, "", [("Set-Cookie", "a=b; path=/, c=d")].into_iter().collect());
        let cookies = response.cookies();
        assert_eq!(cookies.len(), 2);
        response.set_cookies(&cookies);
        let values: Vec<&Bytes> = response.headers.get_all("set-cookie").collect();
        assert_eq!(values, ["a=b; path=/", "c=d"]);
    }
}
