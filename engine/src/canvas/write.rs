//! Writing a canvas, in the form in which it is read.

use serde::{Serialize, Serializer};

use super::{Canvas, Marks, Shape, Siblings, Signature};
use crate::spec::Tree;

type Entries = Vec<(String, Tree)>;

impl Serialize for Canvas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_tree().serialize(serializer)
    }
}

impl Canvas {
    /// The expression as it stands in a document.
    pub fn to_tree(&self) -> Tree {
        let mut entries = match &self.shape {
            Shape::Call(signature) => return call(signature, &self.marks),
            Shape::Chain(items) => entry("chain", list(items)),
            Shape::Group(members) => entry("group", list(members)),
            Shape::Chord { header, body } => {
                let mut inner = entry("header", list(header));
                inner.extend(entry("body", body.to_tree()));
                entry("chord", Tree::Map(inner))
            }
            Shape::Map { kind, items } => {
                entry("map", calls(kind, Tree::List(items.clone())))
            }
            Shape::Starmap { kind, items } => {
                entry("starmap", calls(kind, lists(items)))
            }
            Shape::Chunks { kind, items, size } => {
                let Tree::Map(mut inner) = calls(kind, lists(items)) else {
                    return Tree::Null;
                };
                inner.extend(entry("size", Tree::Number((*size).into())));
                entry("chunks", Tree::Map(inner))
            }
        };
        entries.extend(marks(&self.marks));
        Tree::Map(entries)
    }
}

fn entry(key: &str, value: Tree) -> Entries {
    vec![(key.to_owned(), value)]
}

fn list(items: &[Canvas]) -> Tree {
    Tree::List(items.iter().map(Canvas::to_tree).collect())
}

fn lists(items: &[Vec<Tree>]) -> Tree {
    Tree::List(items.iter().map(|item| Tree::List(item.clone())).collect())
}

fn calls(kind: &str, items: Tree) -> Tree {
    let mut entries = entry("kind", Tree::String(kind.to_owned()));
    entries.extend(entry("items", items));
    Tree::Map(entries)
}

fn call(signature: &Signature, of: &Marks) -> Tree {
    let mut entries = entry("kind", Tree::String(signature.kind.clone()));
    if !signature.args.is_empty() {
        entries.extend(entry("args", Tree::List(signature.args.clone())));
    }
    if !signature.kwargs.is_empty() {
        entries.extend(entry("kwargs", Tree::Map(signature.kwargs.clone())));
    }
    if signature.immutable {
        entries.extend(entry("immutable", Tree::Bool(true)));
    }
    if signature.whole {
        entries.extend(entry("whole", Tree::Bool(true)));
    }
    if !signature.options.is_empty() {
        entries.extend(entry("options", Tree::Map(signature.options.clone())));
    }
    entries.extend(marks(of));
    Tree::Map(entries)
}

fn marks(marks: &Marks) -> Entries {
    let mut entries = vec![];
    for (key, callbacks) in
        [("on_success", &marks.on_success), ("on_failure", &marks.on_failure)]
    {
        if !callbacks.is_empty() {
            entries.extend(entry(key, list(callbacks)));
        }
    }
    if !marks.labels.is_empty() {
        let text = |(name, value): (&String, &String)| {
            (name.clone(), Tree::String(value.clone()))
        };
        entries.extend(entry(
            "labels",
            Tree::Map(marks.labels.iter().map(text).collect()),
        ));
    }
    if let Some(amount) = marks.tolerate {
        let value = match amount {
            crate::plan::Amount::Count(count) => Tree::Number(count.into()),
            share @ crate::plan::Amount::Percent(_) => Tree::String(share.to_string()),
        };
        entries.extend(entry("tolerate", value));
    }
    if marks.siblings == Siblings::Cancel {
        entries.extend(entry("siblings", Tree::String("cancel".to_owned())));
    }
    entries
}
