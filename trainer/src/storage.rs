//! Object storage: URIs, credentials, and what their failures mean.
