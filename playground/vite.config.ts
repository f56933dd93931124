import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // relative addresses: the built folder works at any place of any static host
  build: { target: "es2023", assetsInlineLimit: 0 },
  worker: { format: "es" },
});
