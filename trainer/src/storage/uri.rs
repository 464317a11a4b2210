//! The URIs that are taken: `s3://bucket/key`, `gs://…`, `az://…` and `file:///path`.

use object_store::path::{Path, PathPart};

use super::StorageError;

/// Where something lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    S3,
    Gs,
    Az,
    File,
}

/// A URI in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri<'a> {
    pub(super) text: &'a str,
    pub(super) scheme: Scheme,
    /// Empty for a file.
    pub(super) bucket: &'a str,
    pub(super) key: Path,
}

impl<'a> Uri<'a> {
    /// Keys are taken as they are written: nothing is percent-decoded, and `.` and `..` are refused.
    pub(super) fn parse(text: &'a str) -> Result<Self, StorageError> {
        let invalid =
            |why: &str| StorageError::Invalid { message: format!("'{text}' is no URI that can be opened: {why}") };
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| invalid("it must start with s3://, gs://, az:// or file:///"))?;
        let scheme = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "file" => Scheme::File,
            _ => return Err(invalid("it must start with s3://, gs://, az:// or file:///")),
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        match scheme {
            Scheme::File if !bucket.is_empty() => return Err(invalid("a file URI has three slashes: file:///folder")),
            Scheme::File => {}
            _ if !is_bucket(bucket) => {
                return Err(invalid("the bucket's name is empty or holds a forbidden character"));
            }
            _ => {}
        }
        if key.starts_with('/') {
            return Err(invalid("a segment of the path is empty"));
        }
        let key = Path::parse(key).map_err(|error| invalid(&error.to_string()))?;
        Ok(Self { text, scheme, bucket, key })
    }

    /// The bucket and the key as the path below a local folder.
    pub(super) fn local_parts(&self) -> impl Iterator<Item = PathPart<'_>> {
        let bucket = (!self.bucket.is_empty()).then(|| PathPart::from(self.bucket));
        bucket.into_iter().chain(self.key.parts())
    }
}

/// Letters, digits, `-`, `.` and `_`: what S3, Google and Azure allow between them; never `.` or `..`.
fn is_bucket(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !name.is_empty() && name.len() <= 255 && name.bytes().all(allowed) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_keys_are_told_apart() {
        let uri = Uri::parse("s3://models/team a/50%/x.csv").unwrap();
        assert_eq!((uri.scheme, uri.bucket, uri.key.as_ref()), (Scheme::S3, "models", "team a/50%/x.csv"));
        let uri = Uri::parse("file:///data/x.csv").unwrap();
        assert_eq!((uri.scheme, uri.bucket, uri.key.as_ref()), (Scheme::File, "", "data/x.csv"));
        assert_eq!(Uri::parse("gs://models").unwrap().key.as_ref(), "");
    }

    #[test]
    fn uris_that_could_leave_their_place_are_refused() {
        for uri in [
            "",
            "models",
            "http://a/b",
            "s3:///key",
            "s3://a@b/key",
            "s3://../key",
            "s3://b/../key",
            "s3://b/./key",
            "s3://b//key",
            "s3://b/k\0",
            "file://host/x",
            "file:///data/../etc/passwd",
        ] {
            assert!(matches!(Uri::parse(uri), Err(StorageError::Invalid { .. })), "{uri}");
        }
    }
}
