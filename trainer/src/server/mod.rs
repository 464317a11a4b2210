//! Serving over the Open Inference Protocol.
