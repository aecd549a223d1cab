//! Resources: what is listed, what can be read, what can be watched.
//!
//! Nothing here changes by itself; `test://watched-resource` counts the updates
//! that tools ask for.

use shardgate_proto::mcp::version::ProtocolVersion;

use super::answers::{put, put_base64, put_number, put_string};
use super::media;

/// How long a client may keep what never changes.
pub(super) const STATIC_TTL_MS: u64 = 300_000;

/// The resource that tools update.
pub(super) const WATCHED_URI: &str = "test://watched-resource";

/// The longest resource address that is looked at or subscribed to.
pub(super) const URI_BYTES_MAX: usize = 2_048;

/// The address of the template, for completion.
pub(super) const TEMPLATE: &str = "test://template/{id}/data";

/// A resource's entry in the list.
pub(super) struct ResourceSpec {
    pub(super) uri: &'static str,
    name: &'static str,
    title: &'static str,
    description: &'static str,
    mime: &'static str,
}

const fn resource(
    uri: &'static str,
    name: &'static str,
    title: &'static str,
    description: &'static str,
    mime: &'static str,
) -> ResourceSpec {
    ResourceSpec { uri, name, title, description, mime }
}

/// Every listed resource but the one that comes and goes.
#[rustfmt::skip]
pub(super) static RESOURCES: &[ResourceSpec] = &[
    resource("test://static-text", "static-text", "Static text", "A text that never changes.", "text/plain"),
    resource("test://static-binary", "static-binary", "Static image", "A one-pixel PNG.", "image/png"),
    resource("test://example-resource", "example-resource", "Example", "The resource that prompts embed.", "text/plain"),
    resource(WATCHED_URI, "watched-resource", "Watched", "Counts its updates; tools ask for them.", "text/plain"),
];

/// The resource that `test_trigger_resource_change` adds and removes.
pub(super) static CHANGEABLE_RESOURCE: ResourceSpec = resource(
    "test://changeable-resource",
    "changeable-resource",
    "Changeable",
    "Is there after every odd call of test_trigger_resource_change.",
    "text/plain",
);

impl ResourceSpec {
    /// Appends the resource's definition as `version` knows it.
    pub(super) fn write(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put(out, r#"{"uri":"#);
        put_string(out, self.uri);
        put_names(out, version, self.name, self.title);
        put(out, r#","description":"#);
        put_string(out, self.description);
        put(out, r#","mimeType":"#);
        put_string(out, self.mime);
        put(out, "}");
    }
}

/// Appends the template's definition as `version` knows it.
pub(super) fn write_template(version: ProtocolVersion, out: &mut Vec<u8>) {
    put(out, r#"{"uriTemplate":"#);
    put_string(out, TEMPLATE);
    put_names(out, version, "template-data", "Data by id");
    put(out, r#","description":"Data made up for the given id.","mimeType":"application/json"}"#);
}

fn put_names(out: &mut Vec<u8>, version: ProtocolVersion, name: &str, title: &str) {
    put(out, r#","name":"#);
    put_string(out, name);
    if version >= ProtocolVersion::V2025_06_18 {
        put(out, r#","title":"#);
        put_string(out, title);
    }
}

/// What an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    StaticText,
    StaticBinary,
    Example,
    Watched,
    Changeable,
    Template { id: &'a str },
}

impl<'a> Resource<'a> {
    /// Resolves an address; the changeable resource only if it is there now.
    pub(super) fn resolve(uri: &'a str, changeable: bool) -> Option<Resource<'a>> {
        if uri.len() > URI_BYTES_MAX {
            return None;
        }
        match uri {
            "test://static-text" => Some(Resource::StaticText),
            "test://static-binary" => Some(Resource::StaticBinary),
            "test://example-resource" => Some(Resource::Example),
            WATCHED_URI => Some(Resource::Watched),
            "test://changeable-resource" if changeable => Some(Resource::Changeable),
            _ => {
                let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
                let simple = !id.is_empty() && !id.contains(['/', '{', '}']);
                simple.then_some(Resource::Template { id })
            }
        }
    }

    /// How long a client may keep the content.
    pub(super) fn ttl_ms(self) -> u64 {
        match self {
            Resource::Watched | Resource::Changeable => 0,
            Resource::StaticText
            | Resource::StaticBinary
            | Resource::Example
            | Resource::Template { .. } => STATIC_TTL_MS,
        }
    }

    /// Appends the `contents` member.
    pub(super) fn write(self, uri: &str, updates: u64, out: &mut Vec<u8>) {
        put(out, r#""contents":[{"uri":"#);
        put_string(out, uri);
        match self {
            Resource::StaticText => {
                put_text(out, "text/plain", "This is the content of the static text resource.");
            }
            Resource::StaticBinary => {
                put(out, r#","mimeType":"image/png","blob":""#);
                put_base64(out, media::RED_PIXEL_PNG);
                put(out, r#"""#);
            }
            Resource::Example => {
                put_text(out, "text/plain", "Embedded resource content for testing.");
            }
            Resource::Watched => {
                put(out, r#","mimeType":"text/plain","text":"Updated "#);
                put_number(out, updates);
                put(out, r#" times.""#);
            }
            Resource::Changeable => put_text(out, "text/plain", "This resource comes and goes."),
            Resource::Template { id } => {
                let id = super::answers::quoted(id);
                let data = format!("Data for ID: {}", &id[1..id.len() - 1]);
                let text = format!(r#"{{"id":{id},"templateTest":true,"data":"{data}"}}"#);
                put_text(out, "application/json", &text);
            }
        }
        put(out, "}]");
    }
}

fn put_text(out: &mut Vec<u8>, mime: &str, text: &str) {
    put(out, r#","mimeType":"#);
    put_string(out, mime);
    put(out, r#","text":"#);
    put_string(out, text);
}

#[cfg(test)]
mod tests {
    use simd_json::prelude::*;

    use super::*;

    #[test]
    fn resolves_what_is_listed_and_the_template() {
        for spec in RESOURCES {
            assert!(Resource::resolve(spec.uri, false).is_some(), "{}", spec.uri);
        }
        assert_eq!(Resource::resolve(CHANGEABLE_RESOURCE.uri, false), None);
        assert_eq!(Resource::resolve(CHANGEABLE_RESOURCE.uri, true), Some(Resource::Changeable));
        assert_eq!(
            Resource::resolve("test://template/123/data", false),
            Some(Resource::Template { id: "123" })
        );
        for wrong in ["", "test://template//data", "test://template/a/b/data", "test://other"] {
            assert_eq!(Resource::resolve(wrong, true), None, "{wrong}");
        }
        let long = format!("test://template/{}/data", "x".repeat(URI_BYTES_MAX));
        assert_eq!(Resource::resolve(&long, true), None);
    }

    #[test]
    fn template_text_is_json_whatever_the_id() {
        let uri = "test://template/a\"\\b/data";
        let mut out = b"{".to_vec();
        Resource::resolve(uri, false).expect("a template").write(uri, 0, &mut out);
        out.push(b'}');
        let value = simd_json::to_owned_value(&mut out).expect("JSON");
        let mut inner = value["contents"][0].get_str("text").expect("text").as_bytes().to_vec();
        let inner = simd_json::to_owned_value(&mut inner).expect("JSON in the text");
        assert_eq!(inner.get_str("id"), Some("a\"\\b"));
    }
}
