"""PostgreSQL's side of leases: one call of a function changes all leases of a server in one transaction.

An amount is *held* by a server, or *used* in a bucket of time, never both. All that is held and all that is used
within the window together never exceed the limit, whatever crashes: an amount counts from the moment it is held until
its bucket leaves the window. Buckets of minutes are seconds of the database's clock; the bucket of a budget is the
start of its period; what is held of a concurrency is never used.
"""

from __future__ import annotations

from typing import Final

#: A second more than a minute: a bucket counts until its last moment is out of the window.
_WINDOW_S: Final = 61
#: As `adapters.registry.replicas.membership.DEAD_AFTER_S`.
_DEAD_AFTER_S: Final = 8

_BUCKET: Final = """
CREATE OR REPLACE FUNCTION loragate_bucket(_period text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT floor(extract(epoch FROM CASE _period
        WHEN 'minute' THEN clock_timestamp()
        ELSE date_trunc(_period, now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
    END))::bigint
$$
"""

#: What a tenant, or a key ("key:" and its account), has used since a budget's period began: tokens, or their cost in
#: 1e-9 of the currency, rounded up. The price of an hour is the newest one of the nearest scope that has not ended
#: (`adapters.billing.prices.PriceList`).
_USED: Final = """
CREATE OR REPLACE FUNCTION loragate_used(_owner text, _kind text, _since bigint) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    _tokens numeric;
    _picos numeric;
BEGIN
    SELECT
        coalesce(sum(used.prompt_tokens + used.generated_tokens), 0),
        coalesce(sum(
            (used.prompt_tokens - used.cached_tokens)::numeric * held.prompt_micros
            + used.cached_tokens::numeric * held.cached_micros
            + used.generated_tokens::numeric * held.generated_micros
        ), 0)
    INTO _tokens, _picos
    FROM (
        SELECT tenant, adapter, hour, prompt_tokens, cached_tokens, generated_tokens FROM usage
        WHERE tenant = _owner AND hour >= to_timestamp(_since)
        UNION ALL
        SELECT tenant, adapter, hour, prompt_tokens, cached_tokens, generated_tokens FROM key_usage
        WHERE _owner LIKE 'key:%' AND account = substr(_owner, 5) AND hour >= to_timestamp(_since)
    ) AS used
    LEFT JOIN LATERAL (
        SELECT newest.* FROM (
            SELECT DISTINCT ON (prices.tenant, prices.adapter) prices.* FROM prices
            WHERE _kind = 'money' AND prices.valid_from <= used.hour AND (
                (prices.tenant = '' AND prices.adapter = '')
                OR (prices.tenant = used.tenant AND prices.adapter IN ('', used.adapter))
            )
            ORDER BY prices.tenant, prices.adapter, prices.valid_from DESC
        ) AS newest
        WHERE newest.prompt_micros IS NOT NULL
        ORDER BY newest.tenant DESC, newest.adapter DESC LIMIT 1
    ) AS held ON true;
    RETURN CASE _kind WHEN 'money' THEN ceil(_picos / 1000) ELSE _tokens END;
END $$
"""

#: One lease: reports what was used and given back, and asks for more.
_LEASE: Final = """
CREATE OR REPLACE FUNCTION loragate_lease(_replica text, _order jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    _tenant text := _order->>'tenant';
    _kind text := _order->>'kind';
    _period text := _order->>'period';
    _cap bigint := (_order->>'cap')::bigint;
    _used bigint := (_order->>'used')::bigint;
    _need bigint := (_order->>'need')::bigint;
    _want bigint := (_order->>'want')::bigint;
    _bucket bigint;
    _now double precision;
    _since bigint;
    _total bigint;
    _replicas bigint;
    _left bigint;
    _granted bigint := 0;
    _retry double precision := 1;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(_tenant || ':' || _kind, 7204138));
    INSERT INTO leases (tenant, kind, replica, held) VALUES (_tenant, _kind, _replica, 0) ON CONFLICT DO NOTHING;
    IF _period <> 'none' THEN
        _bucket := loragate_bucket(_period);
        -- To the moment at which the oldest bucket leaves: who asks then gets it at once.
        _now := CASE _period WHEN 'minute' THEN extract(epoch FROM clock_timestamp()) ELSE _bucket END;
        _since := CASE _period WHEN 'minute' THEN _bucket - @window_s@ + 1 ELSE _bucket END;
        DELETE FROM lease_uses WHERE tenant = _tenant AND kind = _kind AND bucket < _since;
        IF _period <> 'minute' AND NOT EXISTS (
            SELECT FROM lease_uses WHERE tenant = _tenant AND kind = _kind AND bucket = _bucket
        ) THEN
            INSERT INTO lease_uses (tenant, kind, bucket, amount)
            VALUES (_tenant, _kind, _bucket, loragate_used(_tenant, _kind, _bucket));
        END IF;
        IF _used > 0 THEN
            INSERT INTO lease_uses (tenant, kind, bucket, amount) VALUES (_tenant, _kind, _bucket, _used)
            ON CONFLICT (tenant, kind, bucket) DO UPDATE SET amount = lease_uses.amount + excluded.amount;
        END IF;
    END IF;
    -- The server knows what it holds, also where this table has lost it: a server that was thought dead comes back.
    UPDATE leases SET held = coalesce(
        (_order->>'held')::bigint, greatest(0, held - _used - (_order->>'back')::bigint)
    )
    WHERE tenant = _tenant AND kind = _kind AND replica = _replica;
    SELECT coalesce(sum(held), 0), count(*) INTO _total, _replicas
    FROM leases WHERE tenant = _tenant AND kind = _kind;
    IF _period <> 'none' THEN
        SELECT _total + coalesce(sum(amount), 0), coalesce(min(bucket), _bucket) + @window_s@ - _now
        INTO _total, _retry FROM lease_uses WHERE tenant = _tenant AND kind = _kind AND bucket >= _since;
    END IF;
    _left := greatest(0, _cap - _total);
    IF _want > 0 AND _left >= _need THEN
        _granted := least(_left, greatest(_need, least(_want, _cap / (4 * _replicas))));
        UPDATE leases SET held = held + _granted WHERE tenant = _tenant AND kind = _kind AND replica = _replica;
    END IF;
    RETURN jsonb_build_object(
        'tenant', _tenant, 'kind', _kind, 'granted', _granted, 'left', _left - _granted,
        'retry_s', greatest(_retry, 0.05)
    );
END $$
"""

#: All leases of one server; a batch that is sent again gets the answer that it got before.
_EXCHANGE: Final = """
CREATE OR REPLACE FUNCTION loragate_exchange_leases(_replica text, _sequence bigint, _orders jsonb)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    _answer jsonb;
BEGIN
    SELECT answer INTO _answer FROM lease_exchanges WHERE replica = _replica AND sequence = _sequence;
    IF FOUND THEN
        RETURN _answer;
    END IF;
    SELECT coalesce(jsonb_agg(loragate_lease(_replica, item)), '[]') INTO _answer
    FROM (SELECT item FROM jsonb_array_elements(_orders) AS item ORDER BY item->>'tenant', item->>'kind') AS sorted;
    INSERT INTO lease_exchanges (replica, sequence, answer) VALUES (_replica, _sequence, _answer)
    ON CONFLICT (replica) DO UPDATE SET sequence = excluded.sequence, answer = excluded.answer;
    RETURN _answer;
END $$
"""

#: What dead servers held counts as used now, except for concurrency, which ended with them.
_TAKE_OVER: Final = """
CREATE OR REPLACE FUNCTION loragate_take_over_leases(_living text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    _lease leases%ROWTYPE;
    _bucket bigint;
    _count bigint := 0;
BEGIN
    -- Who has come to life since the list was made keeps what it holds.
    SELECT coalesce(array_agg(id), '{}') || _living INTO _living
    FROM replicas WHERE seen_at > clock_timestamp() - interval '@dead_after_s@ seconds';
    FOR _lease IN SELECT * FROM leases WHERE replica <> ALL (_living) ORDER BY tenant, kind LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended(_lease.tenant || ':' || _lease.kind, 7204138));
        DELETE FROM leases
        WHERE tenant = _lease.tenant AND kind = _lease.kind AND replica = _lease.replica
        RETURNING held INTO _lease.held;
        CONTINUE WHEN NOT FOUND OR _lease.held = 0 OR _lease.kind = 'sequences';
        IF _lease.kind IN ('budget', 'money') THEN
            SELECT max(bucket) INTO _bucket FROM lease_uses WHERE tenant = _lease.tenant AND kind = _lease.kind;
        ELSE
            _bucket := loragate_bucket('minute');
        END IF;
        CONTINUE WHEN _bucket IS NULL;
        INSERT INTO lease_uses (tenant, kind, bucket, amount)
        VALUES (_lease.tenant, _lease.kind, _bucket, _lease.held)
        ON CONFLICT (tenant, kind, bucket) DO UPDATE SET amount = lease_uses.amount + excluded.amount;
        _count := _count + 1;
    END LOOP;
    DELETE FROM lease_exchanges WHERE replica <> ALL (_living);
    RETURN _count;
END $$
"""

#: In the order of their dependence.
CREATE_FUNCTIONS: Final = (
    _BUCKET,
    _USED,
    _LEASE.replace("@window_s@", str(_WINDOW_S)),
    _EXCHANGE,
    _TAKE_OVER.replace("@dead_after_s@", str(_DEAD_AFTER_S)),
)
