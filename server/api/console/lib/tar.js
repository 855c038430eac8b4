// Creates a POSIX ustar archive: for each file a header of 512 bytes, then the padded content.

const BLOCK = 512;
const ascii = new TextEncoder();

/** The files as one Blob; nothing is read into memory. */
export function tar(files) {
  const parts = files.flatMap((file) => [header(file.name, file.size), file, new Uint8Array((BLOCK - (file.size % BLOCK)) % BLOCK)]);
  return new Blob([...parts, new Uint8Array(2 * BLOCK)], { type: "application/x-tar" });
}

function header(name, size) {
  const block = new Uint8Array(BLOCK);
  const put = (text, at) => block.set(ascii.encode(text), at);
  const octal = (number, digits) => `${number.toString(8).padStart(digits, "0")}\0`;
  if (ascii.encode(name).length > 100) throw new Error(`The file name ${name} is too long.`);
  put(name, 0);
  put(octal(0o644, 7), 100);
  put(octal(0, 7), 108);
  put(octal(0, 7), 116);
  put(octal(size, 11), 124);
  put(octal(0, 11), 136);
  put("        ", 148); // the checksum field counts as spaces while it is computed
  put("0", 156);
  put("ustar\0", 257);
  put("00", 263);
  put(`${octal(block.reduce((sum, byte) => sum + byte, 0), 6)} `, 148);
  return block;
}
