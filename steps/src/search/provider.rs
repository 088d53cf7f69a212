//! [`Provider`]: how each search service is asked and what it answers.
//!
//! Owns addresses, headers and the shapes of answers. Sends nothing.

use dandori::StepError;
use reqwest::{
    Method, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Secret,
    http::{Call, json_call, secret_header},
};

/// A search service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// A wiki such as Wikipedia, which is the usual one: free, and without a key.
    MediaWiki,
    /// One's own meta search, with the JSON format switched on.
    SearXng,
    /// Brave Search, with a key.
    Brave,
    /// Tavily, with a key.
    Tavily,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Hit {
    title: String,
    url: String,
    snippet: String,
}

impl Provider {
    /// All providers.
    pub const ALL: [Self; 4] =
        [Self::MediaWiki, Self::SearXng, Self::Brave, Self::Tavily];

    /// Returns the name as it is spelled in documents and settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MediaWiki => "mediawiki",
            Self::SearXng => "searxng",
            Self::Brave => "brave",
            Self::Tavily => "tavily",
        }
    }

    pub(super) const fn needs_key(self) -> bool {
        match self {
            Self::Brave | Self::Tavily => true,
            Self::MediaWiki | Self::SearXng => false,
        }
    }

    /// The address of the service where there is only one, or a usual one.
    pub(super) fn usual_url(self) -> Option<Url> {
        let text = match self {
            Self::MediaWiki => "https://en.wikipedia.org/w/api.php",
            Self::SearXng => return None,
            Self::Brave => "https://api.search.brave.com/res/v1/web/search",
            Self::Tavily => "https://api.tavily.com/search",
        };
        Url::parse(text).ok()
    }

    /// Makes the request for a query.
    pub(super) fn call(
        self,
        base: &Url,
        key: Option<&Secret>,
        query: &str,
        limit: usize,
    ) -> Result<Call, StepError> {
        let key = |scheme: &str| {
            key.map(|key| {
                let text = format!("{scheme}{}", key.expose());
                secret_header("DANDORI_SEARCH_API_KEY", &text)
            })
            .transpose()
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut url = base.clone();
        let mut ask = |pairs: &[(&str, &str)]| {
            url.query_pairs_mut().extend_pairs(pairs);
        };
        match self {
            Self::MediaWiki => ask(&[
                ("action", "query"),
                ("list", "search"),
                ("format", "json"),
                ("formatversion", "2"),
                ("utf8", "1"),
                ("srlimit", &limit.to_string()),
                ("srsearch", query),
            ]),
            Self::SearXng => {
                ask(&[("q", query), ("format", "json")]);
                // The address is often given without its last part.
                if !url.path().ends_with("/search") {
                    let path = format!("{}/search", url.path().trim_end_matches('/'));
                    url.set_path(&path);
                }
                if let Some(key) = key("Bearer ")? {
                    headers.insert(AUTHORIZATION, key);
                }
            }
            Self::Brave => {
                ask(&[("q", query), ("count", &limit.min(20).to_string())]);
                if let Some(key) = key("")? {
                    headers
                        .insert(HeaderName::from_static("x-subscription-token"), key);
                }
            }
            Self::Tavily => {
                if let Some(key) = key("Bearer ")? {
                    headers.insert(AUTHORIZATION, key);
                }
                let body = json!({ "query": query, "max_results": limit.min(20) });
                return json_call(url, headers, &body);
            }
        }
        Ok(Call { method: Method::GET, url, headers, body: None, timeouts: None })
    }

    /// Reads the results out of an answer.
    pub(super) fn parse(
        self,
        base: &Url,
        answer: &Value,
    ) -> Result<Vec<Hit>, StepError> {
        let (place, snippet) = match self {
            Self::MediaWiki => ("/query/search", "snippet"),
            Self::SearXng | Self::Tavily => ("/results", "content"),
            Self::Brave => ("/web/results", "description"),
        };
        let Some(results) = answer.pointer(place).and_then(Value::as_array) else {
            return self.without_results(answer);
        };
        let text =
            |hit: &Value, key| hit.get(key).and_then(Value::as_str).map(str::to_owned);
        let hits = results.iter().filter_map(|hit| {
            let title = text(hit, "title")?;
            let snippet = text(hit, snippet).unwrap_or_default();
            Some(match self {
                Self::MediaWiki => Hit {
                    url: page_url(base, &title),
                    snippet: plain_text(&snippet),
                    title,
                },
                Self::Brave => Hit {
                    url: text(hit, "url")?,
                    snippet: plain_text(&snippet),
                    title: plain_text(&title),
                },
                Self::SearXng | Self::Tavily => {
                    Hit { url: text(hit, "url")?, snippet, title }
                }
            })
        });
        Ok(hits.collect())
    }

    fn without_results(self, answer: &Value) -> Result<Vec<Hit>, StepError> {
        // Brave leaves the whole part out when nothing was found.
        if self == Self::Brave && answer.get("type").is_some() {
            return Ok(vec![]);
        }
        // A wiki reports its errors with a status of success.
        if let Some(error) = answer.get("error") {
            let part = |key| error.get(key).and_then(Value::as_str).unwrap_or_default();
            let message = format!("{}: {}", part("code"), part("info"));
            let busy = matches!(part("code"), "ratelimited" | "maxlag");
            return Err(StepError::retry(
                if busy { "rate_limited" } else { "invalid_output" },
                message,
            ));
        }
        let message =
            format!("the answer of {} holds no list of results", self.as_str());
        Err(StepError::retry("invalid_output", message))
    }
}

/// The address of a page of a wiki, from the address of its interface.
fn page_url(base: &Url, title: &str) -> String {
    let mut url = base.clone();
    let name = title.replace(' ', "_");
    url.set_query(None);
    let path = base.path().to_owned();
    match path.strip_suffix("/w/api.php") {
        Some(before) => {
            url.set_path(&format!("{before}/wiki/{}", name.replace('%', "%25")));
        }
        None => {
            let before = path.strip_suffix("api.php").unwrap_or(&path);
            url.set_path(&format!("{before}index.php"));
            url.query_pairs_mut().append_pair("title", &name);
        }
    }
    url.into()
}

/// Takes the marks of a snippet away: tags, and the few entities that services write.
fn plain_text(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut in_tag = false;
    for c in html.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => in_tag = false,
            _ if in_tag => {}
            _ => text.push(c),
        }
    }
    // `&amp;` comes last: what it uncovers is text, not another entity.
    [
        ("&quot;", "\""),
        ("&#039;", "'"),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&nbsp;", " "),
        ("&#160;", " "),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text, |text, (entity, plain)| text.replace(entity, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_wiki_get_their_address_from_their_title() {
        let wiki = Url::parse("https://ja.wikipedia.org/w/api.php").unwrap();
        assert_eq!(page_url(&wiki, "AC/DC"), "https://ja.wikipedia.org/wiki/AC/DC");
        assert_eq!(
            page_url(&wiki, "100% 段取り?"),
            "https://ja.wikipedia.org/wiki/100%25_%E6%AE%B5%E5%8F%96%E3%82%8A%3F"
        );
        let other = Url::parse("http://127.0.0.1/api.php").unwrap();
        assert_eq!(page_url(&other, "A b"), "http://127.0.0.1/index.php?title=A_b");
    }

    #[test]
    fn snippets_lose_their_marks() {
        let html =
            r#"<span class="searchmatch">Rust</span> &amp; &quot;C&quot; &amp;lt;"#;
        assert_eq!(plain_text(html), r#"Rust & "C" &lt;"#);
    }
}
