//! Calls: arguments by position and by name become the input of a handler.
//!
//! What a handler takes is read off its input type: the fields of a struct, the places of a
//! tuple, or one value.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::de::{self, DeserializeOwned, Visitor};
use serde_json::value::RawValue;

use crate::StepError;

/// How the arguments of a call become the input of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// One value: the only argument is the input itself, and without one it is null.
    Value,
    /// An object: arguments by position fill the names in this order.
    Named(Vec<Cow<'static, str>>),
    /// A list of so many places.
    Tuple(usize),
    /// A list of all arguments, however many.
    List,
}

impl Form {
    /// The form of an input type.
    pub fn of<T: DeserializeOwned>() -> Self {
        let mut form = Self::Value;
        // It always ends in an error: only the question is of interest.
        let _ = T::deserialize(Probe(&mut form));
        form
    }

    /// The most arguments by position.
    pub fn most(&self) -> usize {
        match self {
            Self::Value => 1,
            Self::Named(names) => names.len(),
            Self::Tuple(places) => *places,
            Self::List => usize::MAX,
        }
    }

    /// What is wrong with a call of so many arguments by position and these by name.
    ///
    /// # Errors
    /// A sentence; after a semicolon what to write instead.
    pub fn check<'n>(
        &self,
        kind: &str,
        args: usize,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<(), String> {
        if args > self.most() {
            let (most, plural) = (self.most(), if self.most() == 1 { "" } else { "s" });
            return Err(format!(
                "`{kind}` takes {most} argument{plural}, and {args} are given; the value \
                 passed on counts as the first"
            ));
        }
        for name in names {
            let Self::Named(known) = self else {
                if matches!(self, Self::Value) && args == 0 {
                    continue;
                }
                return Err(format!(
                    "`{kind}` takes no argument by name; give `{name}` by position"
                ));
            };
            match known.iter().position(|it| it == name) {
                Some(place) if place < args => {
                    return Err(format!(
                        "`{name}` of `{kind}` is given twice; by position it is number {}",
                        place + 1
                    ));
                }
                Some(_) => {}
                None => {
                    let known = known.join("`, `");
                    return Err(format!(
                        "`{kind}` has no argument `{name}`; it has `{known}`"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Makes the input of a call.
    ///
    /// # Errors
    /// `invalid_input` when the arguments do not fit.
    pub(crate) fn arrange(
        &self,
        kind: &str,
        args: &[Arc<RawValue>],
        kwargs: &[(&str, Arc<RawValue>)],
    ) -> Result<Box<RawValue>, StepError> {
        let names = kwargs.iter().map(|(name, _)| *name);
        self.check(kind, args.len(), names)
            .map_err(|message| StepError::fail("invalid_input", message))?;
        match self {
            Self::Value => match (args, kwargs) {
                ([], []) => Ok(RawValue::NULL.to_owned()),
                ([one, ..], _) => Ok((**one).to_owned()),
                ([], kwargs) => crate::to_raw(&Object(kwargs.to_vec())),
            },
            Self::Named(known) => {
                let by_place =
                    known.iter().map(AsRef::as_ref).zip(args.iter().cloned());
                let all = by_place.chain(kwargs.iter().cloned());
                crate::to_raw(&Object(all.collect()))
            }
            Self::Tuple(_) | Self::List => crate::to_raw(args),
        }
    }
}

/// An object whose values are JSON texts already.
struct Object<'a>(Vec<(&'a str, Arc<RawValue>)>);

impl serde::Serialize for Object<'_> {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, &**value)))
    }
}

/// Asked by a type for what it wants to read, it takes note and has nothing to give.
struct Probe<'f>(&'f mut Form);

#[derive(Debug)]
struct Nothing;

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is nothing to read")
    }
}

impl std::error::Error for Nothing {}

impl de::Error for Nothing {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Nothing;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Nothing> {
        Err(Nothing)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Nothing> {
        *self.0 = Form::Named(fields.iter().copied().map(Cow::Borrowed).collect());
        Err(Nothing)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        places: usize,
        _: V,
    ) -> Result<V::Value, Nothing> {
        *self.0 = Form::Tuple(places);
        Err(Nothing)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        places: usize,
        visitor: V,
    ) -> Result<V::Value, Nothing> {
        self.deserialize_tuple(places, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Nothing> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct seq map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Pair {
        x: i64,
        #[serde(default)]
        y: i64,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Wrapped(Pair);

    fn raw(text: &str) -> Arc<RawValue> {
        Arc::from(RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn the_form_of_an_input_is_that_of_its_type() {
        let named = Form::Named(vec!["x".into(), "y".into()]);
        assert_eq!(Form::of::<Pair>(), named);
        assert_eq!(Form::of::<Wrapped>(), named);
        assert_eq!(Form::of::<(i64, String)>(), Form::Tuple(2));
        for form in [
            Form::of::<i64>(),
            Form::of::<()>(),
            Form::of::<Vec<Pair>>(),
            Form::of::<Option<Pair>>(),
            Form::of::<serde_json::Value>(),
        ] {
            assert_eq!(form, Form::Value);
        }
    }

    #[test]
    fn arguments_become_the_input() {
        let pair = Form::of::<Pair>();
        let said = |form: &Form, args: &[&str], kwargs: &[(&'static str, &str)]| {
            let args: Vec<_> = args.iter().map(|text| raw(text)).collect();
            let kwargs: Vec<_> =
                kwargs.iter().map(|(name, text)| (*name, raw(text))).collect();
            match form.arrange("k", &args, &kwargs) {
                Ok(input) => input.get().to_owned(),
                Err(error) => error.message,
            }
        };
        assert_eq!(said(&pair, &["1"], &[("y", "2")]), r#"{"x":1,"y":2}"#);
        assert_eq!(said(&Form::Value, &["[1]"], &[]), "[1]");
        assert_eq!(said(&Form::Value, &[], &[]), "null");
        assert_eq!(said(&Form::Tuple(2), &["1", "2"], &[]), "[1,2]");
        assert_eq!(said(&Form::List, &[], &[]), "[]");
        assert!(said(&pair, &["1"], &[("x", "2")]).contains("given twice"));
        assert!(said(&pair, &["1", "2", "3"], &[]).contains("takes 2 arguments"));
        assert!(said(&pair, &[], &[("q", "1")]).contains("no argument `q`"));
        assert!(said(&Form::Tuple(2), &[], &[("q", "1")]).contains("by position"));
    }
}
