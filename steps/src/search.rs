//! `web.search`: titles, addresses and snippets from a search service.
//!
//! Owns the handler and the choice of the service. How each service is asked and answers
//! is in `provider`.

mod provider;

use async_trait::async_trait;
use dandori::{Context, Handler, Outcome, Parameter, StepError};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

pub use self::provider::Provider;
use crate::{
    Secret, Settings, SetupError,
    contract::{Contract, NAME, invalid, read_input, static_text},
    http::{self, Web},
};

const DEFAULT_LIMIT: usize = 5;
const MAX_LIMIT: usize = 50;

/// What it gives.
const OUTPUT: &str = r#"{"type":"object","required":["results","provider"],
    "properties":{
        "results":{"type":"array","items":{"type":"object",
            "required":["title","url","snippet"],"properties":{
                "title":{"type":"string"},"url":{"type":"string"},"snippet":{"type":"string"}}}},
        "provider":{"type":"string"}}}"#;

/// Handler of `web.search`.
#[derive(Debug)]
pub(crate) struct Search {
    contract: Contract,
    web: Web,
    provider: Provider,
    url: Option<Url>,
    key: Option<Secret>,
}

impl Search {
    pub(crate) fn new(settings: &Settings, web: Web) -> Result<Self, SetupError> {
        let wrong = |name| move |reason| SetupError::Setting(name, reason);
        let provider = match &settings.search_provider {
            Some(name) => {
                parse_provider(name).map_err(wrong("DANDORI_SEARCH_PROVIDER"))?
            }
            None => Provider::MediaWiki,
        };
        let url = settings.search_url.as_deref().map(http::parse_url).transpose();
        let contract = Contract::new([
            Parameter::required("query", NAME),
            Parameter::optional(
                "limit",
                r#"{"type":"integer","minimum":1,"maximum":50}"#,
            ),
            Parameter::optional("provider", NAME),
        ])
        .gives(OUTPUT);
        Ok(Self {
            contract,
            web,
            provider,
            url: url.map_err(wrong("DANDORI_SEARCH_URL"))?,
            key: settings.search_api_key.clone(),
        })
    }

    /// The address and the key of a provider. Both settings belong to the provider that is
    /// set beside them: the key of one service is never sent to another.
    fn access(&self, provider: Provider) -> Result<(Url, Option<&Secret>), StepError> {
        let missing = |what: &str| {
            let message = format!(
                "the search service {} needs {what}, with \
                 DANDORI_SEARCH_PROVIDER={0} beside it",
                provider.as_str()
            );
            StepError::fail("not_configured", message)
        };
        let own = provider == self.provider;
        let url = self.url.clone().filter(|_| own).or_else(|| provider.usual_url());
        let key = self.key.as_ref().filter(|_| own);
        if provider.needs_key() && key.is_none() {
            return Err(missing("DANDORI_SEARCH_API_KEY"));
        }
        Ok((url.ok_or_else(|| missing("DANDORI_SEARCH_URL"))?, key))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    query: String,
    limit: Option<usize>,
    provider: Option<String>,
}

#[async_trait]
impl Handler for Search {
    fn kind(&self) -> &'static str {
        "web.search"
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.contract.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.contract.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.contract.check(with)?;
        static_text(with, "provider")
            .map_or(Ok(()), |name| parse_provider(name).map(|_| ()))
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: Input = read_input(input)?;
        let limit = input.limit.unwrap_or(DEFAULT_LIMIT);
        if input.query.trim().is_empty() || !(1..=MAX_LIMIT).contains(&limit) {
            return Err(invalid(format!(
                "`query` must hold a word and `limit` be 1 to {MAX_LIMIT}"
            )));
        }
        let provider = match &input.provider {
            Some(name) => parse_provider(name).map_err(invalid)?,
            None => self.provider,
        };
        let (url, key) = self.access(provider)?;
        let call = provider.call(&url, key, input.query.trim(), limit)?;
        let reply = self.web.send(&ctx, call, &|status| status == 200).await?;
        if reply.status.as_u16() != 200 {
            return Err(reply.failure(|text| {
                ctx.mask(key.map_or_else(|| text.clone(), |key| key.redact(&text)))
            }));
        }
        let mut results = provider.parse(&url, &reply.json()?)?;
        results.truncate(limit);
        Outcome::done(&json!({ "results": results, "provider": provider.as_str() }))
    }
}

fn parse_provider(name: &str) -> Result<Provider, String> {
    Provider::ALL.into_iter().find(|provider| provider.as_str() == name).ok_or_else(
        || {
            let known = Provider::ALL.map(Provider::as_str).join(", ");
            format!(
                "`{}` is not a search service; known are {known}",
                name.escape_debug()
            )
        },
    )
}
