//! The arguments of a tool that headers mirror (MCP 2026-07-28, `x-mcp-header`).
//!
//! An annotation counts where it stands on a property that is reached from the root of
//! the input schema through `properties` alone. Anywhere else it is a fault of the tool.

use super::entry::BadEntry;
use crate::jsonrpc::{Broken, Cursor, DEPTH_MAX, string, unescape};
use crate::upstream::{HeaderParameter, HeaderParameterKind};

const ANNOTATION: &[u8] = b"x-mcp-header";

/// What is wrong with an annotation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMirror {
    /// It is empty, no text, or cannot stand in a header's name.
    #[error("{0:?} is no name for a header (RFC 9110, 5.6.2: a token)")]
    NoToken(String),
    /// Two arguments want the same header; case does not tell them apart.
    #[error("header {0:?} is asked for more than once")]
    Repeated(String),
    /// Only `string`, `integer` and `boolean` have one spelling in a header.
    #[error("header {0:?} mirrors an argument that is no string, integer or boolean")]
    Kind(String),
    /// It stands below `items`, `oneOf` or the like, where it names no one value.
    #[error("it stands where no single argument is meant")]
    Place,
}

/// The mirrored arguments of an input schema, in its order.
pub(super) fn mirrored_parameters(schema: &[u8]) -> Result<Box<[HeaderParameter]>, BadEntry> {
    // Hardly any tool has one: a look at the bytes spares the walk. An escape in the
    // annotation's name would hide it, so a backslash that may spell one is looked into too.
    let may_have = memchr::memmem::find(schema, ANNOTATION).is_some()
        || memchr::memmem::find(schema, b"\\u00").is_some();
    if !may_have {
        return Ok(Box::default());
    }
    let mut walk = Walk::default();
    let walked = Cursor::new(schema, DEPTH_MAX).map_err(|_| Broken).and_then(|mut cursor| {
        let start = cursor.begin()?;
        walk.schema(&mut cursor, start, 0, &Place::Root)
    });
    match (walked, walk.fault) {
        (Err(Broken), _) => Err(BadEntry::InputSchema),
        (Ok(_), Some(fault)) => Err(BadEntry::Mirror(fault)),
        (Ok(_), None) => Ok(walk.found.into_boxed_slice()),
    }
}

/// What a schema stands for.
#[derive(Clone)]
enum Place {
    /// The arguments as a whole.
    Root,
    /// The argument at this path.
    Property(Vec<String>),
    /// Something that is not one argument.
    Elsewhere,
}

impl Place {
    fn property(&self, name: &[u8]) -> Place {
        let Some(name) = unescape(name) else { return Place::Elsewhere };
        let mut path = match self {
            Place::Root => Vec::new(),
            Place::Property(path) => path.clone(),
            Place::Elsewhere => return Place::Elsewhere,
        };
        path.push(name.into_owned());
        Place::Property(path)
    }
}

#[derive(Default)]
struct Walk {
    found: Vec<HeaderParameter>,
    fault: Option<BadMirror>,
}

/// What a keyword of a schema holds.
#[derive(Clone, Copy)]
enum Keyword {
    Annotation,
    Type,
    /// Schemas of the named properties.
    Properties,
    /// Schemas by some name.
    Named,
    /// Data: whatever it holds is no annotation.
    Data,
    /// A schema, an array of schemas, or nothing of interest.
    Other,
}

impl Keyword {
    fn of(name: &[u8]) -> Keyword {
        match name {
            ANNOTATION => Keyword::Annotation,
            b"type" => Keyword::Type,
            b"properties" => Keyword::Properties,
            b"$defs" | b"definitions" | b"patternProperties" | b"dependentSchemas" => {
                Keyword::Named
            }
            b"default" | b"const" | b"enum" | b"examples" => Keyword::Data,
            _ => Keyword::Other,
        }
    }
}

impl Walk {
    /// Looks into the schema at `at`, which has `depth` containers around it. Recursion
    /// is bounded by [`DEPTH_MAX`], which the cursor holds to.
    fn schema(
        &mut self,
        cursor: &mut Cursor<'_>,
        at: usize,
        depth: usize,
        place: &Place,
    ) -> Result<usize, Broken> {
        match cursor.peek(at) {
            Some(b'{') => {}
            Some(b'[') => {
                return cursor.elements(at, depth + 1, |cursor, at| {
                    self.schema(cursor, at, depth + 1, &Place::Elsewhere)
                });
            }
            _ => return cursor.skip_value(at, depth),
        }
        let depth = depth + 1;
        let (mut annotation, mut kind) = (None, None);
        let end = cursor.members(at, depth, |cursor, name, at| {
            let keyword = cursor.spelled(name, |name| Some(Keyword::of(name)));
            let end = match keyword.unwrap_or(Keyword::Other) {
                Keyword::Annotation | Keyword::Type | Keyword::Data => {
                    cursor.skip_value(at, depth)?
                }
                Keyword::Properties => self.schemas(cursor, at, depth, Some(place))?,
                Keyword::Named => self.schemas(cursor, at, depth, None)?,
                Keyword::Other => self.schema(cursor, at, depth, &Place::Elsewhere)?,
            };
            match keyword {
                Some(Keyword::Annotation) => annotation = cursor.bytes().get(at..end),
                Some(Keyword::Type) => kind = cursor.bytes().get(at..end),
                Some(_) | None => {}
            }
            Ok(end)
        })?;
        if let Some(annotation) = annotation
            && let Err(fault) = self.note(annotation, kind, place)
        {
            self.fault.get_or_insert(fault);
        }
        Ok(end)
    }

    /// Looks into an object of schemas: those of the properties of `parent`, or others.
    fn schemas(
        &mut self,
        cursor: &mut Cursor<'_>,
        at: usize,
        depth: usize,
        parent: Option<&Place>,
    ) -> Result<usize, Broken> {
        if cursor.peek(at) != Some(b'{') {
            return cursor.skip_value(at, depth);
        }
        cursor.members(at, depth + 1, |cursor, name, at| {
            let name = &cursor.bytes()[name.start..name.end];
            let place = parent.map_or(Place::Elsewhere, |parent| parent.property(name));
            self.schema(cursor, at, depth + 1, &place)
        })
    }

    fn note(&mut self, value: &[u8], kind: Option<&[u8]>, place: &Place) -> Result<(), BadMirror> {
        let Place::Property(path) = place else { return Err(BadMirror::Place) };
        let header = match string(value) {
            Some(header) if is_token(&header) => header.into_owned(),
            _ => return Err(BadMirror::NoToken(String::from_utf8_lossy(value).into_owned())),
        };
        let kind = match kind.and_then(string).as_deref() {
            Some("string") => HeaderParameterKind::String,
            Some("integer") => HeaderParameterKind::Integer,
            Some("boolean") => HeaderParameterKind::Boolean,
            Some(_) | None => return Err(BadMirror::Kind(header)),
        };
        if self.found.iter().any(|other| other.header.eq_ignore_ascii_case(&header)) {
            return Err(BadMirror::Repeated(header));
        }
        let (argument, inner) = path.split_first().ok_or(BadMirror::Place)?;
        self.found.push(HeaderParameter {
            argument: argument.clone().into(),
            inner: inner.to_vec(),
            header: header.into(),
            kind,
        });
        Ok(())
    }
}

/// RFC 9110, 5.6.2: `token = 1*tchar`.
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(properties: &str) -> Result<Vec<String>, BadEntry> {
        let schema = format!(r#"{{"type":"object",{properties}}}"#);
        let found = mirrored_parameters(schema.as_bytes())?;
        let shown = |one: &HeaderParameter| {
            format!("{} {} {} {:?}", one.header, one.argument, one.inner.join("/"), one.kind)
        };
        Ok(found.iter().map(shown).collect())
    }

    #[test]
    fn annotations_are_found_at_any_depth_of_properties() {
        let found = read(
            r#""properties":{"region":{"type":"string","x-mcp-header":"Region"},
            "n":{"x-mcp-\u0068eader":"N","type":"integer"},"plain":{"type":"string"},
            "outer":{"type":"object","properties":{"x-mcp-header":{"type":"boolean","x-mcp-header":"B"}}}}"#,
        );
        let wanted = ["Region region  String", "N n  Integer", "B outer x-mcp-header Boolean"];
        assert_eq!(found.expect("all are valid"), wanted);
        assert_eq!(read(r#""properties":{"a":{"type":"string"}}"#).expect("none"), [""; 0]);
    }

    #[test]
    fn data_is_no_annotation() {
        let found = read(r#""properties":{"a":{"type":"object","default":{"x-mcp-header":1}}}"#);
        assert_eq!(found.expect("no annotation"), [""; 0]);
    }

    #[test]
    fn each_rule_is_held_to() {
        let bad = |properties: &str| match read(properties) {
            Err(BadEntry::Mirror(fault)) => fault,
            other => panic!("{properties}: {other:?}"),
        };
        for text in [r#""""#, r#""a b""#, r#""a\r\nb""#, r#""é""#, "7"] {
            let fault =
                bad(&format!(r#""properties":{{"a":{{"type":"string","x-mcp-header":{text}}}}}"#));
            assert_eq!(fault, BadMirror::NoToken(text.to_owned()));
        }
        for kind in [r#""number""#, r#""object""#, r#"["string","null"]"#] {
            let fault =
                bad(&format!(r#""properties":{{"a":{{"type":{kind},"x-mcp-header":"A"}}}}"#));
            assert_eq!(fault, BadMirror::Kind("A".to_owned()));
        }
        let twice = r#""properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}"#;
        assert_eq!(bad(twice), BadMirror::Repeated("a".to_owned()));
        let annotated = r#"{"type":"string","x-mcp-header":"A"}"#;
        for elsewhere in [
            r#""x-mcp-header":"A""#.to_owned(),
            format!(r#""properties":{{"a":{{"type":"array","items":{annotated}}}}}"#),
            format!(r#""properties":{{"a":{{"items":{{"properties":{{"b":{annotated}}}}}}}}}"#),
            format!(r#""oneOf":[{{"properties":{{"a":{annotated}}}}}]"#),
            format!(r#""$defs":{{"a":{annotated}}}"#),
            format!(r#""additionalProperties":{annotated}"#),
            format!(r#""if":{{"properties":{{"a":{annotated}}}}}"#),
        ] {
            assert_eq!(bad(&elsewhere), BadMirror::Place, "{elsewhere}");
        }
    }
}
