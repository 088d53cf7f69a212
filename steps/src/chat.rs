//! `llm.chat`: one answer of a language model.
//!
//! Owns the request to any service that speaks the interface of OpenAI, and the reading of
//! an answer by a schema. The address, the model and the key are the operator's.

use async_trait::async_trait;
use dandori::{Context, Handler, Outcome, Parameter, StepError};
use jsonschema::Validator;
use reqwest::{
    Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    Secret, Settings, SetupError,
    contract::{
        Contract, NAME, TEXT, exactly_one, has_expression, invalid, read_input,
    },
    http::{self, Timeouts, Web},
};

const MESSAGES: &str = r#"{"type":"array","minItems":1,"items":{"type":"object",
    "required":["role","content"],"properties":{"role":{"type":"string"}}}}"#;

/// What it gives.
const OUTPUT: &str = r#"{"type":"object",
    "required":["text","data","model","usage","finish_reason"],
    "properties":{
        "text":{"type":["string","null"]},
        "data":{"description":"the answer as JSON, where a schema was given"},
        "model":{"type":["string","null"]},
        "usage":{"type":"object","properties":{
            "input_tokens":{"type":"integer"},"output_tokens":{"type":"integer"}}},
        "finish_reason":{"type":["string","null"]}}}"#;

/// Handler of `llm.chat`.
#[derive(Debug)]
pub(crate) struct Chat {
    contract: Contract,
    web: Web,
    url: Option<Url>,
    model: Option<String>,
    key: Option<Secret>,
    timeouts: Timeouts,
}

impl Chat {
    pub(crate) fn new(settings: &Settings, web: Web) -> Result<Self, SetupError> {
        let url = settings.llm_url.as_deref().map(|base| {
            let mut url = http::parse_url(base)?;
            let path = url.path().trim_end_matches('/');
            if !path.ends_with("/chat/completions") {
                let path = format!("{path}/chat/completions");
                url.set_path(&path);
            }
            Ok(url)
        });
        let url = url.transpose();
        let url =
            url.map_err(|reason| SetupError::Setting("DANDORI_LLM_URL", reason))?;
        let contract = Contract::new([
            Parameter::optional("prompt", TEXT),
            Parameter::optional("messages", MESSAGES),
            Parameter::optional("system", TEXT),
            Parameter::optional("model", NAME),
            Parameter::optional("temperature", r#"{"type":"number","minimum":0}"#),
            Parameter::optional("max_tokens", r#"{"type":"integer","minimum":1}"#),
            Parameter::optional("schema", r#"{"type":["object","boolean"]}"#),
        ])
        .gives(OUTPUT);
        Ok(Self {
            contract,
            web,
            url,
            model: settings.llm_model.clone(),
            key: settings.llm_api_key.clone(),
            timeouts: Timeouts {
                answer: settings.llm_timeout,
                idle: settings.llm_timeout,
                total: settings.total_timeout.max(settings.llm_timeout),
            },
        })
    }

    fn headers(&self) -> Result<HeaderMap, StepError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.key {
            let text = format!("Bearer {}", key.expose());
            headers.insert(AUTHORIZATION, secret_bearer(&text)?);
        }
        Ok(headers)
    }
}

fn secret_bearer(text: &str) -> Result<HeaderValue, StepError> {
    http::secret_header("DANDORI_LLM_API_KEY", text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    prompt: Option<String>,
    messages: Option<Vec<Map<String, Value>>>,
    system: Option<String>,
    model: Option<String>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    schema: Option<Value>,
}

impl Input {
    fn body(self, usual_model: Option<&str>) -> Result<Value, StepError> {
        let Some(model) = self.model.as_deref().or(usual_model) else {
            return Err(not_configured("DANDORI_LLM_MODEL", "or the step `model:`"));
        };
        let mut body = json!({ "model": model, "stream": false });
        let mut messages: Vec<Value> = vec![];
        if let Some(system) = self.system {
            messages.push(json!({ "role": "system", "content": system }));
        }
        match (self.prompt, self.messages) {
            (Some(prompt), None) => {
                messages.push(json!({ "role": "user", "content": prompt }));
            }
            (None, Some(given)) => {
                messages.extend(given.into_iter().map(Value::Object))
            }
            _ => return Err(invalid("give `prompt` or `messages`")),
        }
        body["messages"] = Value::Array(messages);
        if let Some(temperature) = self.temperature {
            body["temperature"] = json!(temperature);
        }
        if let Some(max_tokens) = self.max_tokens {
            body["max_tokens"] = json!(max_tokens);
        }
        if let Some(schema) = self.schema {
            // Not asked to be strict: services then refuse schemas they know only in part,
            // and the answer is checked here anyway.
            let named = json!({ "name": "output", "schema": schema });
            body["response_format"] =
                json!({ "type": "json_schema", "json_schema": named });
        }
        Ok(body)
    }
}

#[async_trait]
impl Handler for Chat {
    fn kind(&self) -> &'static str {
        "llm.chat"
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.contract.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.contract.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.contract.check(with)?;
        exactly_one(with, "prompt", "messages")?;
        match with.get("schema").filter(|schema| !has_expression(schema)) {
            Some(schema) => compile(schema).map(|_| ()),
            None => Ok(()),
        }
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: Input = read_input(input)?;
        let Some(url) = self.url.clone() else {
            return Err(not_configured(
                "DANDORI_LLM_URL",
                "such as http://127.0.0.1:1234/v1",
            ));
        };
        let validator = input.schema.as_ref().map(compile).transpose();
        let validator =
            validator.map_err(|error| StepError::fail("invalid_schema", error))?;
        let body = input.body(self.model.as_deref())?;
        let mut call = http::json_call(url, self.headers()?, &body)?;
        call.timeouts = Some(self.timeouts);
        let reply = self.web.send(&ctx, call, &|status| status == 200).await?;
        if reply.status.as_u16() != 200 {
            return Err(reply.failure(|text| {
                let key = self.key.as_ref();
                ctx.mask(key.map_or_else(|| text.clone(), |key| key.redact(&text)))
            }));
        }
        let answer = reply.json()?;
        let text = text_of(&answer)?;
        let finish = answer.pointer("/choices/0/finish_reason").and_then(Value::as_str);
        let data = match &validator {
            Some(validator) => read_data(&text, validator, finish)?,
            None => Value::Null,
        };
        let tokens = |key| {
            answer.get("usage").and_then(|usage| usage.get(key)).and_then(Value::as_u64)
        };
        Outcome::done(&json!({
            "text": text,
            "data": data,
            "model": answer.get("model").and_then(Value::as_str).or(body["model"].as_str()),
            "usage": {
                "input_tokens": tokens("prompt_tokens").unwrap_or(0),
                "output_tokens": tokens("completion_tokens").unwrap_or(0),
            },
            "finish_reason": finish,
        }))
    }
}

fn not_configured(variable: &str, hint: &str) -> StepError {
    StepError::fail("not_configured", format!("the worker needs {variable}, {hint}"))
}

fn compile(schema: &Value) -> Result<Validator, String> {
    jsonschema::validator_for(schema).map_err(|error| format!("`schema`: {error}"))
}

/// Finds the text of an answer; some services write it as a list of parts.
fn text_of(answer: &Value) -> Result<String, StepError> {
    let message = answer.pointer("/choices/0/message");
    let missing = |reason: &str| {
        Err(StepError::retry("invalid_output", format!("the answer {reason}")))
    };
    match message.and_then(|message| message.get("content")) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            Ok(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect())
        }
        _ => match message.and_then(|message| message.get("refusal")?.as_str()) {
            Some(refusal) => {
                missing(&format!("is a refusal: {}", http::excerpt(refusal)))
            }
            None => missing("holds no text"),
        },
    }
}

/// Reads the text of an answer as JSON and checks it. Models answer differently when they
/// are asked again, so that a mismatch is worth another attempt.
fn read_data(
    text: &str,
    validator: &Validator,
    finish: Option<&str>,
) -> Result<Value, StepError> {
    let wrong = |reason: String| {
        let cut =
            if finish == Some("length") { " (it was cut at max_tokens)" } else { "" };
        StepError::retry("invalid_output", format!("{reason}{cut}"))
    };
    let data: Value = serde_json::from_str(bare_json(text))
        .map_err(|error| wrong(format!("the answer is not JSON: {error}")))?;
    if let Some(error) = validator.iter_errors(&data).next() {
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { "/".to_owned() } else { place };
        return Err(wrong(format!(
            "the answer does not match the schema at {place}: {error}"
        )));
    }
    Ok(data)
}

/// Takes away what models put around JSON: their thoughts, and a fence.
fn bare_json(text: &str) -> &str {
    let text = text.trim();
    let text = match text.strip_prefix("<think>") {
        Some(thought) => {
            thought.split_once("</think>").map_or(text, |(_, rest)| rest.trim())
        }
        None => text,
    };
    let Some(fenced) =
        text.strip_prefix("```").and_then(|text| text.strip_suffix("```"))
    else {
        return text;
    };
    fenced.split_once('\n').map_or(fenced, |(_language, rest)| rest).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_and_thoughts_are_taken_away() {
        for text in [
            "{\"a\":1}",
            " ```json\n{\"a\":1}\n``` ",
            "```\n{\"a\":1}\n```",
            "<think>hm</think>\n{\"a\":1}",
        ] {
            assert_eq!(bare_json(text), "{\"a\":1}", "{text}");
        }
    }
}
