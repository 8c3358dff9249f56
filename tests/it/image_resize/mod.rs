//! `image.resize`, compared with other programs: ImageMagick for sizes, Pillow for pixels.

mod avatar;
mod corpora;
mod files;
mod geometry;
mod hostile;
mod metadata;
mod pictures;
mod service;
mod support;
