// A file that a person picked, as the server is to get it, and the same pixels for drawing.
//
// The server turns a JPEG upright by its EXIF orientation, and knows PNG, GIF and BMP, which it takes as they are stored.
// A file of another format that the browser knows is drawn upright here and sent as JPEG.

const QUALITY = 0.95;
const STORED = [[0x89, 0x50, 0x4e, 0x47], [0x47, 0x49, 0x46], [0x42, 0x4d]]; // how PNG, GIF and BMP begin
const JPEG = [0xff, 0xd8];

// Returns { body, bitmap }: what to send, and what to draw, pixel for pixel what the server decodes.
export async function prepare(file) {
  const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const begins = (magic) => magic.every((value, i) => start[i] === value);
  if (STORED.some(begins)) return { body: file, bitmap: await createImageBitmap(file, { imageOrientation: "none" }) };
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  return { body: begins(JPEG) ? file : await asJpeg(bitmap), bitmap };
}

async function asJpeg(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const body = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  if (!body) throw new Error("too large");
  return body;
}
