// A photo with boxes, masks and names on a canvas.

const LONGEST = [900, 1600]; // pixels of the canvas: smaller photos are enlarged, larger ones reduced

export function colour(number) {
  return `hsl(${(number * 137.508 + 200) % 360} 85% 45%)`;
}

// Draws a photo and the detections on it, each in its `colour`; `chosen` is the one to stand out, or null.
export function draw(canvas, bitmap, detections, { names, chosen }) {
  const longest = Math.max(bitmap.width, bitmap.height);
  const scale = Math.max(LONGEST[0], Math.min(LONGEST[1], longest)) / longest;
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, Math.max(canvas.width, canvas.height) / 400);
  const shown = [...detections].reverse(); // the surest lie on top
  for (const detection of shown) if (detection.mask) drawMask(context, detection, scale);
  for (const detection of shown) drawBox(context, detection, scale, unit, detection === chosen, chosen);
  if (names) for (const detection of shown) drawName(context, detection, scale, unit);
}

function drawBox(context, detection, scale, unit, isChosen, chosen) {
  const [top, left, bottom, right] = detection.box.map((value) => value * scale);
  context.globalAlpha = chosen && !isChosen ? 0.35 : 1;
  for (const [style, width] of [["rgb(255 255 255 / 0.8)", 2], [detection.colour, isChosen ? 1.8 : 1]]) {
    context.strokeStyle = style;
    context.lineWidth = unit * width;
    context.strokeRect(left, top, right - left, bottom - top);
  }
  context.globalAlpha = 1;
}

function drawName(context, detection, scale, unit) {
  const [top, left] = detection.box.map((value) => value * scale);
  const size = Math.max(9, unit * 6.5);
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const text = `${detection.name} ${detection.score.toFixed(2)}`;
  const width = context.measureText(text).width + size * 0.5;
  const height = size * 1.25;
  const x = Math.max(0, Math.min(left, context.canvas.width - width));
  const y = top >= height ? top - height : top;
  context.fillStyle = "rgb(0 0 0 / 0.7)";
  context.fillRect(x, y, width, height);
  context.fillStyle = "#fff";
  context.fillText(text, x + size * 0.25, y + size * 0.15);
}

// The mask's grid covers a box of its own, the one found before it was cut to the photo. It is enlarged smoothly, and what is above one half is painted.
function drawMask(context, detection, scale) {
  const [top, left, bottom, right] = detection.mask.box.map((value) => Math.round(value * scale));
  const width = right - left;
  const height = bottom - top;
  if (width < 1 || height < 1) return;
  const [rows, columns] = detection.mask.shape;
  const probabilities = Uint8Array.from(atob(detection.mask.b64), (letter) => letter.charCodeAt(0));
  const small = new ImageData(columns, rows);
  probabilities.forEach((value, i) => small.data.set([value, value, value, 255], 4 * i));
  const smallCanvas = sheet(columns, rows);
  smallCanvas.getContext("2d").putImageData(small, 0, 0);
  const large = sheet(width, height);
  const painter = large.getContext("2d", { willReadFrequently: true });
  painter.imageSmoothingEnabled = true;
  painter.drawImage(smallCanvas, 0, 0, width, height);
  const pixels = painter.getImageData(0, 0, width, height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i] > 127 ? 255 : 0;
  painter.putImageData(pixels, 0, 0);
  painter.globalCompositeOperation = "source-in";
  painter.fillStyle = detection.colour;
  painter.fillRect(0, 0, width, height);
  context.globalAlpha = 0.5;
  context.drawImage(large, left, top);
  context.globalAlpha = 1;
}

function sheet(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}
