//! `http.request`: one request and its answer.
//!
//! Owns the input, the headers that a document may set, and the output. The exchange with
//! its limits and redirects is in `client`, the addresses that are refused in `address`.

mod address;
mod client;

use std::collections::BTreeMap;

use async_trait::async_trait;
use dandori::{Context, Handler, Outcome, Parameter, StepError};
use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

pub(crate) use self::client::{Call, Timeouts, Web, Webs};
use crate::{
    Network,
    contract::{
        Contract, NAME, TEXT, TEXTS, has_expression, invalid, present, read_input,
        static_text,
    },
};

/// Headers that belong to the connection. Set by a document, they would let a request
/// pose as two.
const RESERVED: [&str; 10] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// What it gives.
const OUTPUT: &str = r#"{"type":"object","required":["status","headers","body","json"],
    "properties":{
        "status":{"type":"integer"},
        "headers":{"type":"object","additionalProperties":{"type":"string"}},
        "body":{"type":"string"},
        "json":{"description":"the body as JSON, where it is that"}}}"#;

/// Reads an address and refuses what no request may go to.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let url =
        Url::parse(text).map_err(|error| format!("the URL cannot be read: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "the URL has the scheme `{}`, not http or https",
            url.scheme()
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL holds a user name or a password; use a header".to_owned());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("the URL has no host".to_owned());
    }
    Ok(url)
}

/// Handler of `http.request`.
#[derive(Debug)]
pub(crate) struct Request {
    contract: Contract,
    web: Web,
}

impl Request {
    pub(crate) fn new(web: Web) -> Self {
        let query = r#"{"type":"object","additionalProperties":
            {"type":["string","number","boolean","null"]}}"#;
        let ok = r#"{"type":"array","minItems":1,"items":{"anyOf":[
            {"type":"integer","minimum":100,"maximum":599},
            {"type":"string","pattern":"^[1-5]xx$"}]}}"#;
        let contract = Contract::new([
            Parameter::optional("method", NAME),
            Parameter::required("url", NAME),
            Parameter::optional("headers", TEXTS),
            Parameter::optional("query", query),
            Parameter::optional("json", ""),
            Parameter::optional("body", TEXT),
            Parameter::optional("ok", ok),
        ])
        .gives(OUTPUT);
        Self { contract, web }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    method: Option<String>,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    query: Map<String, Value>,
    #[serde(default, deserialize_with = "present")]
    json: Option<Box<RawValue>>,
    body: Option<String>,
    ok: Option<Vec<Accepted>>,
}

/// A status that counts as success: one, or a class such as `2xx`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Accepted {
    One(u16),
    Class(String),
}

impl Accepted {
    fn has(&self, status: u16) -> bool {
        match self {
            Self::One(one) => *one == status,
            Self::Class(class) => {
                class.len() == 3
                    && class.ends_with("xx")
                    && class.starts_with(&(status / 100).to_string())
            }
        }
    }
}

#[async_trait]
impl Handler for Request {
    fn kind(&self) -> &'static str {
        "http.request"
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.contract.parameters())
    }

    /// By the method (RFC 9110, 9.2.2); a key makes another one so.
    fn is_idempotent(&self, with: &Value) -> bool {
        let method = with.get("method").and_then(Value::as_str).unwrap_or("GET");
        let headers = with.get("headers").and_then(Value::as_object);
        let has_key = headers.is_some_and(|headers| {
            headers.keys().any(|name| name.eq_ignore_ascii_case("idempotency-key"))
        });
        let known = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"];
        has_key || known.iter().any(|it| it.eq_ignore_ascii_case(method))
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.contract.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.contract.check(with)?;
        if with.get("json").is_some() && with.get("body").is_some() {
            return Err("give `json` or `body`, not both".to_owned());
        }
        if let Some(method) = static_text(with, "method") {
            parse_method(method)?;
        }
        if let Some(url) = static_text(with, "url") {
            let url = parse_url(url)?;
            if self.web.network() == Network::Public {
                address::check_host(&url).map_err(|blocked| blocked.to_string())?;
            }
        }
        for (name, value) in
            with.get("headers").and_then(Value::as_object).into_iter().flatten()
        {
            header_name(name)?;
            if let Some(text) = value.as_str().filter(|_| !has_expression(value)) {
                header_value(name, text)?;
            }
        }
        Ok(())
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: Input = read_input(input)?;
        let accepted = input.ok.as_deref();
        let accepts = |status: u16| match accepted {
            Some(accepted) => accepted.iter().any(|accepted| accepted.has(status)),
            None => (200..300).contains(&status),
        };
        let call = Call { timeouts: Some(self.web.patient()), ..call_of(&input)? };
        let reply = self.web.send(&ctx, call, &accepts).await?;
        if !accepts(reply.status.as_u16()) {
            return Err(reply.failure(|text| ctx.mask(text)));
        }
        let mut headers: BTreeMap<&str, String> = BTreeMap::new();
        for (name, value) in &reply.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            headers
                .entry(name.as_str())
                .and_modify(|known| {
                    known.push_str(", ");
                    known.push_str(&value);
                })
                .or_insert_with(|| value.clone().into_owned());
        }
        let body = reply.text();
        // Read only for the output: a body that claims to be JSON and is not stays text.
        let parsed: Option<Box<RawValue>> = reply
            .is_json()
            .then(|| serde_json::from_str::<Value>(&body).ok())
            .flatten()
            .and_then(|_| serde_json::from_str(&body).ok());
        #[derive(serde::Serialize)]
        struct Output<'r> {
            status: u16,
            headers: BTreeMap<&'r str, String>,
            body: &'r str,
            json: Option<Box<RawValue>>,
        }
        let status = reply.status.as_u16();
        Outcome::done(&Output { status, headers, body: &body, json: parsed })
    }
}

fn call_of(input: &Input) -> Result<Call, StepError> {
    let method =
        parse_method(input.method.as_deref().unwrap_or("GET")).map_err(invalid)?;
    let mut url = parse_url(&input.url).map_err(invalid)?;
    for (name, value) in &input.query {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Array(_) | Value::Object(_) => {
                return Err(invalid(format!(
                    "`query/{name}` is not a text or a number"
                )));
            }
        };
        url.query_pairs_mut().append_pair(name, &text);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &input.headers {
        let value = header_value(name, value).map_err(invalid)?;
        headers.append(header_name(name).map_err(invalid)?, value);
    }
    let body = match (&input.json, &input.body) {
        (None, None) => None,
        (Some(json), None) => {
            let json_type = HeaderValue::from_static("application/json");
            headers.entry(CONTENT_TYPE).or_insert(json_type);
            Some(json.get().as_bytes().to_vec())
        }
        (None, Some(body)) => {
            let text_type = HeaderValue::from_static("text/plain; charset=utf-8");
            headers.entry(CONTENT_TYPE).or_insert(text_type);
            Some(body.as_bytes().to_vec())
        }
        (Some(_), Some(_)) => return Err(invalid("give `json` or `body`, not both")),
    };
    Ok(Call { method, url, headers, body, timeouts: None })
}

fn parse_method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes())
        .map_err(|_| format!("`{}` is not an HTTP method", text.escape_debug()))?;
    if matches!(method, Method::CONNECT | Method::TRACE) {
        return Err(format!("the method {method} is not supported"));
    }
    Ok(method)
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        format!("`{}` is not the name of a header", name.escape_debug())
    })?;
    if RESERVED.contains(&parsed.as_str()) {
        return Err(format!("the header `{parsed}` belongs to the connection"));
    }
    Ok(parsed)
}

/// The value is not shown in the error: it may be a key.
fn header_value(name: &str, value: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(value)
        .or_else(|_| {
            // Text outside ASCII is sent as UTF-8; control characters stay refused.
            HeaderValue::from_bytes(value.as_bytes())
        })
        .map_err(|_| {
            format!("the header `{name}` holds a line break or control character")
        })
}

/// A JSON body for a call made by this crate.
pub(crate) fn json_call(
    url: Url,
    mut headers: HeaderMap,
    body: &Value,
) -> Result<Call, StepError> {
    let body = serde_json::to_vec(body).map_err(invalid)?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Call { method: Method::POST, url, headers, body: Some(body), timeouts: None })
}

/// Makes the header of a key that the operator has set.
pub(crate) fn secret_header(
    setting: &str,
    text: &str,
) -> Result<HeaderValue, StepError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        StepError::fail("not_configured", format!("{setting} is not one line of ASCII"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The start of a JSON error that services send, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let named = parsed.as_ref().and_then(|json| {
        let error = json.get("error").unwrap_or(json);
        error.as_str().or_else(|| error.get("message")?.as_str())
    });
    let text = named.unwrap_or(text).trim();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_that_are_not_plain_web_addresses_are_refused() {
        for text in [
            "file:///etc/passwd",
            "gopher://example.com/",
            "ftp://example.com/",
            "data:text/plain,x",
            "http://user:pass@example.com/",
            "http://user@example.com/",
            "http://",
            "example.com",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
        assert!(parse_url("https://example.com:8443/a?b#c").is_ok());
        assert!(
            !parse_url("http://user:canary@example.com")
                .unwrap_err()
                .contains("canary")
        );
    }

    #[test]
    fn headers_of_the_connection_and_line_breaks_are_refused() {
        for name in ["Host", "content-length", "Transfer-Encoding", "a b", "a\r\nb", ""]
        {
            assert!(header_name(name).is_err(), "{name:?}");
        }
        for value in ["a\r\nb: c", "a\nb", "a\0b"] {
            assert!(header_value("x", value).is_err(), "{value:?}");
        }
        assert!(header_value("x", "資料").is_ok());
        assert!(parse_method("GET / HTTP/1.1\r\n").is_err());
        assert_eq!(parse_method("patch"), Ok(Method::PATCH));
    }

    #[test]
    fn an_excerpt_names_the_message_of_the_service() {
        let text = json!({ "error": { "message": "no such\nmodel" } }).to_string();
        assert_eq!(excerpt(&text), "no such model");
        assert_eq!(excerpt("<html>"), "<html>");
    }
}
