//! [`Web`]: the exchange of a request and an answer within limits.
//!
//! Owns the redirect loop, the size and time limits, and what each failure is called.
//! Every kind that talks HTTP goes through [`Web::send`]. Errors never hold the URL, whose
//! query may carry a key.

use std::{borrow::Cow, error::Error as _, time::Duration};

use dandori::{Clock, Context, StepError};
use encoding_rs::Encoding;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::{
    Client, Method, StatusCode, Url,
    header::{
        ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, DATE, HeaderMap, HeaderName,
        HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT,
    },
    redirect::Policy,
};

use super::{
    address::{Blocked, PublicOnly, check_host},
    excerpt, parse_url,
};
use crate::{Network, Settings, SetupError};

const MAX_REDIRECTS: usize = 5;

/// A service cannot make a step wait longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Wikis and other services of the public good refuse requests that give no name.
const AGENT: &str =
    concat!("dandori/", env!("CARGO_PKG_VERSION"), " (workflow engine)");

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const ATTEMPT: HeaderName = HeaderName::from_static("x-dandori-attempt");

/// What may follow a redirect to another origin. Everything else that a document or an
/// operator has set may be a credential, whatever its name.
const HARMLESS: [HeaderName; 6] =
    [ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, USER_AGENT, IDEMPOTENCY_KEY, ATTEMPT];

/// The clients of one worker.
#[derive(Debug)]
pub(crate) struct Webs {
    /// For addresses from documents.
    pub(crate) open: Web,
    /// For addresses from the operator, which may be inside.
    pub(crate) trusted: Web,
}

impl Webs {
    /// Makes the clients; they are one where nothing is restricted.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let trusted = Web::new(settings, Network::Any)?;
        let open = match settings.network {
            Network::Any => trusted.clone(),
            Network::Public => Web::new(settings, Network::Public)?,
        };
        Ok(Self { open, trusted })
    }
}

/// An HTTP client with its limits. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    client: Client,
    network: Network,
    timeouts: Timeouts,
    max_body: usize,
}

/// The time limits of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Until an answer begins.
    pub(crate) answer: Duration,
    /// Of silence within an answer.
    pub(crate) idle: Duration,
    /// Of everything.
    pub(crate) total: Duration,
}

/// A request to be sent.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Vec<u8>>,
    /// Instead of the usual ones.
    pub(crate) timeouts: Option<Timeouts>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Vec<u8>,
}

impl Web {
    fn new(settings: &Settings, network: Network) -> Result<Self, SetupError> {
        // Redirects are followed by our own loop, which looks at each of them. A proxy
        // from the environment would make the connection in our place, past the filter.
        let builder = Client::builder()
            .user_agent(AGENT)
            .redirect(Policy::none())
            .no_proxy()
            // A connection that the service closes between two steps would fail the second
            // one; a new one costs little beside a call that is worth a step.
            .pool_max_idle_per_host(0)
            .connect_timeout(settings.connect_timeout);
        let builder = match network {
            Network::Any => builder,
            Network::Public => builder.dns_resolver(PublicOnly),
        };
        let client =
            builder.build().map_err(|error| SetupError::Client(describe(error)))?;
        let timeouts = Timeouts {
            answer: settings.idle_timeout,
            idle: settings.idle_timeout,
            total: settings.total_timeout,
        };
        Ok(Self { client, network, timeouts, max_body: settings.max_body })
    }

    /// The time limits for a service that works before it answers: it may be silent as
    /// long as the whole may take.
    pub(crate) fn patient(&self) -> Timeouts {
        Timeouts { answer: self.timeouts.total, ..self.timeouts }
    }

    /// Which addresses this client reaches.
    pub(crate) fn network(&self) -> Network {
        self.network
    }

    /// Sends a call and reads the answer. A redirect that `accepts` names is an answer.
    pub(crate) async fn send(
        &self,
        ctx: &Context,
        call: Call,
        accepts: &(dyn Fn(u16) -> bool + Sync),
    ) -> Result<Reply, StepError> {
        let timeouts = call.timeouts.unwrap_or(self.timeouts);
        tokio::select! {
            reply = self.follow(ctx, call, timeouts, accepts) => reply,
            () = tokio::time::sleep(timeouts.total) => Err(StepError::retry(
                "timeout",
                format!("no complete answer within {:?}", timeouts.total),
            )),
            () = ctx.cancellation().cancelled() => Err(StepError::cancelled()),
        }
    }

    async fn follow(
        &self,
        ctx: &Context,
        mut call: Call,
        timeouts: Timeouts,
        accepts: &(dyn Fn(u16) -> bool + Sync),
    ) -> Result<Reply, StepError> {
        let key = HeaderValue::from_str(&ctx.idempotency_key());
        // The name of a step may be written in any script, the header in one only.
        let key = key.unwrap_or_else(|_| digest_of(&ctx.idempotency_key()));
        call.headers.entry(IDEMPOTENCY_KEY).or_insert(key);
        call.headers.insert(ATTEMPT, HeaderValue::from(ctx.attempt()));
        let mut redirects = 0;
        loop {
            let reply = self.exchange(&call, timeouts).await?;
            let Some(target) = redirect_of(&reply) else { return Ok(reply) };
            if accepts(reply.status.as_u16()) {
                return Ok(reply);
            }
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                let message = format!("more than {MAX_REDIRECTS} redirects");
                return Err(StepError::fail("redirect", message));
            }
            call = redirected(call, reply.status, &target)
                .map_err(|reason| StepError::fail("redirect", reason))?;
        }
    }

    async fn exchange(
        &self,
        call: &Call,
        timeouts: Timeouts,
    ) -> Result<Reply, StepError> {
        if self.network == Network::Public {
            check_host(&call.url)
                .map_err(|blocked| StepError::fail("blocked_address", blocked))?;
        }
        let mut request = reqwest::Request::new(call.method.clone(), call.url.clone());
        *request.headers_mut() = call.headers.clone();
        *request.body_mut() = call.body.clone().map(Into::into);
        let mut response =
            within(timeouts.answer, self.client.execute(request)).await?;
        if response.content_length().is_some_and(|length| length > self.max_body as u64)
        {
            return Err(self.too_large());
        }
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        // Counted after decoding, so that a small body cannot unpack to a large one.
        while let Some(chunk) = within(timeouts.idle, response.chunk()).await? {
            if body.len() + chunk.len() > self.max_body {
                return Err(self.too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, headers, body })
    }

    fn too_large(&self) -> StepError {
        let message = format!("the answer is larger than {} bytes", self.max_body);
        StepError::fail("too_large", message)
    }
}

impl Reply {
    /// Whether the service says that the body is JSON.
    pub(crate) fn is_json(&self) -> bool {
        let kind = self.content_type().split(';').next().unwrap_or_default().trim();
        let kind = kind.to_ascii_lowercase();
        kind == "application/json" || kind.ends_with("+json") || kind == "text/json"
    }

    /// The body as text, in the encoding that the service names; UTF-8 without one.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        let named = self.content_type().split(';').skip(1).find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim())
        });
        let encoding = named
            .and_then(|label| Encoding::for_label(label.trim_matches('"').as_bytes()))
            .unwrap_or(encoding_rs::UTF_8);
        encoding.decode(&self.body).0
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// `invalid_output`, retryable: a proxy in between may have answered in place of the
    /// service.
    pub(crate) fn json(&self) -> Result<serde_json::Value, StepError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            StepError::retry(
                "invalid_output",
                format!("the answer is not JSON: {error}"),
            )
        })
    }

    fn content_type(&self) -> &str {
        self.headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// What a status that is not accepted means. `mask` takes secrets out of the message.
    pub(crate) fn failure(&self, mask: impl Fn(String) -> String) -> StepError {
        // Masked before it is cut: half a secret would not be found.
        let said = excerpt(&mask(self.text().into_owned()));
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let message = format!("the service answered {}{said}", self.status);
        let status = self.status;
        let error = match status.as_u16() {
            408 => StepError::retry("timeout", message),
            429 => StepError::retry("rate_limited", message),
            500..=599 => StepError::retry("http_5xx", message),
            400..=499 => StepError::fail("http_4xx", message),
            _ => StepError::fail("http_status", message),
        };
        match self.retry_after() {
            Some(wait) if matches!(status.as_u16(), 429 | 503) => {
                error.retry_after(wait)
            }
            _ => error,
        }
    }

    /// Reads `Retry-After`: seconds, or a date. The date is compared with the clock of the
    /// service, where it tells its time, since ours may differ.
    fn retry_after(&self) -> Option<Duration> {
        let header = |name| self.headers.get(name)?.to_str().ok().map(str::trim);
        let text = header(RETRY_AFTER)?;
        let wait = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let date = |text| DateTimeParser::new().parse_timestamp(text).ok();
                let now = header(DATE).and_then(date).map_or_else(
                    || Clock::default().now().as_micros(),
                    jiff::Timestamp::as_microsecond,
                );
                let micros = date(text)?.as_microsecond().saturating_sub(now);
                Duration::from_micros(u64::try_from(micros).unwrap_or(0))
            }
        };
        Some(wait.min(MAX_RETRY_AFTER))
    }
}

/// Waits for one event of an exchange.
async fn within<T>(
    idle: Duration,
    event: impl Future<Output = Result<T, reqwest::Error>>,
) -> Result<T, StepError> {
    match tokio::time::timeout(idle, event).await {
        Ok(result) => result.map_err(classify),
        Err(_) => {
            Err(StepError::retry("timeout", format!("nothing was heard for {idle:?}")))
        }
    }
}

fn redirect_of(reply: &Reply) -> Option<String> {
    let redirect = matches!(reply.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let target = redirect.then(|| reply.headers.get(LOCATION)).flatten()?;
    Some(String::from_utf8_lossy(target.as_bytes()).into_owned())
}

/// Turns a call into the one that a redirect asks for.
fn redirected(
    mut call: Call,
    status: StatusCode,
    target: &str,
) -> Result<Call, String> {
    let joined =
        call.url.join(target).map_err(|error| format!("a redirect: {error}"))?;
    let url =
        parse_url(joined.as_str()).map_err(|reason| format!("a redirect: {reason}"))?;
    if call.url.scheme() == "https" && url.scheme() == "http" {
        return Err("a redirect from https to http is not followed".to_owned());
    }
    if call.url.origin() != url.origin() {
        let harmless = call.headers.iter().filter(|(name, _)| HARMLESS.contains(name));
        call.headers =
            harmless.map(|(name, value)| (name.clone(), value.clone())).collect();
    }
    let to_get = match status.as_u16() {
        303 => call.method != Method::HEAD,
        // What browsers do, and what services therefore expect.
        301 | 302 => call.method == Method::POST,
        _ => false,
    };
    if to_get {
        call.method = Method::GET;
        call.body = None;
        call.headers.remove(CONTENT_TYPE);
    }
    call.url = url;
    Ok(call)
}

fn classify(error: reqwest::Error) -> StepError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(blocked) = cause.downcast_ref::<Blocked>() {
            return StepError::fail("blocked_address", blocked);
        }
        source = cause.source();
    }
    let (timeout, dns, connect) =
        (error.is_timeout(), error.is_dns(), error.is_connect());
    let (built, decode) = (error.is_builder(), error.is_decode());
    let message = describe(error);
    // The TLS library is not one of ours to name its types; its words are stable enough.
    let lower = message.to_ascii_lowercase();
    let tls = ["certificate", "tls", "fatal alert", "corrupt message"];
    let code = match () {
        () if timeout => "timeout",
        () if dns || lower.contains("lookup address") => "dns",
        () if connect && tls.iter().any(|word| lower.contains(word)) => "tls",
        () if built => return StepError::fail("invalid_input", message),
        () if decode => "invalid_output",
        () => "connect",
    };
    StepError::retry(code, message)
}

/// Joins an error with its causes, without the URL.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A key of plain letters that is the same whenever the text is.
fn digest_of(text: &str) -> HeaderValue {
    use sha2::{Digest, Sha256};
    let digest = format!("{:x}", Sha256::digest(text.as_bytes()));
    HeaderValue::from_str(&digest).expect("hexadecimal digits are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(HeaderName, &'static str)]) -> Reply {
        let headers =
            headers.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v)));
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.collect(),
            body: vec![],
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_capped() {
        let now = (DATE, "Tue, 15 Nov 1994 08:12:31 GMT");
        for (text, millis) in [
            ("7", Some(7_000)),
            ("86400", Some(3_600_000)),
            ("Tue, 15 Nov 1994 08:13:31 GMT", Some(60_000)),
            ("Tue, 15 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let error = reply(429, &[now.clone(), (RETRY_AFTER, text)]).failure(|t| t);
            assert_eq!(error.retry_after_ms, millis, "{text}");
            assert_eq!(error.code, "rate_limited");
        }
    }

    #[test]
    fn a_redirect_to_another_origin_loses_credentials() {
        let call = || Call {
            method: Method::POST,
            url: Url::parse("https://a.example/x").unwrap(),
            headers: [
                ("authorization", "Bearer k"),
                ("x-api-key", "k"),
                ("accept", "*/*"),
            ]
            .into_iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect(),
            body: Some(vec![1]),
            timeouts: None,
        };
        let same = redirected(call(), StatusCode::FOUND, "/y").unwrap();
        assert_eq!((same.method, same.body), (Method::GET, None));
        assert_eq!(same.headers.len(), 3);
        let other =
            redirected(call(), StatusCode::TEMPORARY_REDIRECT, "https://b.example/");
        let other = other.unwrap();
        assert_eq!((other.method, other.body), (Method::POST, Some(vec![1])));
        assert_eq!(other.headers.keys().collect::<Vec<_>>(), [&ACCEPT]);
        for target in ["http://a.example/", "file:///x", "https://u:p@a.example/"] {
            assert!(redirected(call(), StatusCode::FOUND, target).is_err(), "{target}");
        }
    }

    #[test]
    fn text_is_decoded_by_its_charset() {
        let kind = (CONTENT_TYPE, "text/html; charset=Shift_JIS");
        let reply = Reply {
            body: vec![0x92, 0x69, 0x8e, 0xe6, 0x82, 0xe8],
            ..reply(200, &[kind])
        };
        assert_eq!(reply.text(), "段取り");
    }
}
