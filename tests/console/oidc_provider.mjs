// A certified OpenID Connect provider (npm's oidc-provider) on a free port: `node oidc_provider.mjs PACKAGES REDIRECT_URI`.
// It prints its issuer as the first line. Whoever signs in is an operator.

import { createRequire } from "node:module";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [packages, redirectUri] = process.argv.slice(2);
const require = createRequire(`${packages}/`);
const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")).href);

const server = createServer();
server.listen(0, "localhost", () => {
  const issuer = `http://localhost:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: "loragate", client_secret: "a secret of the client", redirect_uris: [redirectUri] }],
    claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"] },
    scopes: ["openid", "email", "groups"],
    conformIdTokenClaims: false, // all claims of the scopes are in the ID token
    pkce: { required: () => true },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@example.org`, email_verified: true, groups: ["llm-operators"] }),
    }),
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
