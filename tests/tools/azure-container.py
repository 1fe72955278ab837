"""Makes a container in a Blob server: ENDPOINT (with the account) ACCOUNT KEY CONTAINER. Signed as "Shared Key"."""

import base64, email.utils, hashlib, hmac, sys, urllib.parse, urllib.request

endpoint, account, key, container = sys.argv[1:]
url = f"{endpoint}/{container}?restype=container"
date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
path = urllib.parse.urlparse(url).path
text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}{path}\nrestype:container"
sign = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
headers = {
    "x-ms-date": date,
    "x-ms-version": version,
    "Authorization": f"SharedKey {account}:{base64.b64encode(sign).decode()}",
    "Content-Length": "0",
}
urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).read()
